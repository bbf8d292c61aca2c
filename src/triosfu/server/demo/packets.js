// LiveKit's DataPacket, as far as a chat needs it: text streams (header, chunks, trailer) on the topic `lk.chat`.
// Protobuf by hand: a field is its number and wire type, then a varint or length-prefixed bytes.

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const CHUNK = 15_000; // bytes; what the SDKs use too

function varint(value) {
  const bytes = [];
  let rest = BigInt(value);
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    bytes.push(rest ? low | 0x80 : low);
  } while (rest);
  return bytes;
}

function join(parts) {
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

const number = (field, value) => Uint8Array.from([...varint(field << 3), ...varint(value)]);
function bytes(field, value) {
  const data = typeof value === 'string' ? encoder.encode(value) : value;
  return join([Uint8Array.from([...varint((field << 3) | 2), ...varint(data.length)]), data]);
}

// Returns {fieldNumber: [values]}; a value is a BigInt or a Uint8Array.
function parse(data) {
  const fields = {};
  let at = 0;
  const readVarint = () => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (at >= data.length) throw new Error('truncated');
      const byte = data[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new Error('varint too long');
  };
  while (at < data.length) {
    const tag = Number(readVarint());
    let value;
    switch (tag & 7) {
      case 0: value = readVarint(); break;
      case 1: value = data.subarray(at, at += 8); break;
      case 2: { const size = Number(readVarint()); value = data.subarray(at, at += size); break; }
      case 5: value = data.subarray(at, at += 4); break;
      default: throw new Error('unknown wire type');
    }
    (fields[tag >> 3] ??= []).push(value);
  }
  return fields;
}

const text = (fields, key) => (fields[key] ? decoder.decode(fields[key][0]) : '');

// The packets that carry one chat message.
export function chatPackets(message) {
  const id = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());
  const content = encoder.encode(message);
  const header = join([
    bytes(1, id), number(2, Date.now()), bytes(3, 'lk.chat'), bytes(4, 'text/plain'), number(5, content.length),
    bytes(9, new Uint8Array()),
  ]);
  const packets = [bytes(13, header)];
  for (let index = 0; index * CHUNK < content.length; index += 1) {
    const slice = content.subarray(index * CHUNK, (index + 1) * CHUNK);
    packets.push(bytes(14, join([bytes(1, id), number(2, index), bytes(3, slice)])));
  }
  packets.push(bytes(15, bytes(1, id)));
  return packets;
}

// Collects text streams from data packets; calls `onMessage(identity, text)` for each complete one.
export class ChatReader {
  constructor(onMessage) {
    this.onMessage = onMessage;
    this.streams = new Map();
  }

  read(data) {
    const packet = parse(data);
    const identity = text(packet, 4);
    if (packet[13]) {
      const header = parse(packet[13][0]);
      if (text(header, 3) !== 'lk.chat') return;
      if (this.streams.size >= 100) this.streams.delete(this.streams.keys().next().value);
      this.streams.set(text(header, 1), { identity, parts: header[11] ? [header[11][0]] : [] });
    } else if (packet[14]) {
      const chunk = parse(packet[14][0]);
      const stream = this.streams.get(text(chunk, 1));
      if (stream && chunk[3]) stream.parts.push(chunk[3][0].slice());
    } else if (packet[15]) {
      const id = text(parse(packet[15][0]), 1);
      const stream = this.streams.get(id);
      if (!stream) return;
      this.streams.delete(id);
      this.onMessage(stream.identity, decoder.decode(join(stream.parts)));
    }
  }
}

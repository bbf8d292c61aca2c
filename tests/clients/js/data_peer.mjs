// A peer with data channels, told by commands what to do; the same in a page of Chromium and in Node.
// tests/clients/interop/foreign.py says what commands and events there are. Written against the W3C's interface.

const encode = (bytes) => {
  const parts = [];
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return btoa(parts.join(''));
};
const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// `tell` takes an event; `showsReliability` says whether a channel that the other side opened tells of its reliability;
// `wrap` makes of bytes what `send` wants.
export function dataPeer({ RTCPeerConnection, tell, configuration = {}, showsReliability = true, wrap = (x) => x }) {
  const connections = new Map();
  const channels = new Map();
  let handles = 0;

  const adopt = (connection, channel, opened_here) => {
    const handle = ++handles;
    channels.set(handle, channel);
    channel.binaryType = 'arraybuffer';
    let told = false;
    const opened = () => {
      if (told || channel.readyState !== 'open') return;
      told = true;
      const known = showsReliability || opened_here;
      tell({
        event: 'open', connection, channel: handle, opened_here, label: channel.label, protocol: channel.protocol,
        stream: channel.id === 65535 ? null : channel.id, // node-datachannel knows no better of the first
        reliability: known
          ? [channel.ordered, channel.maxRetransmits ?? null, channel.maxPacketLifeTime ?? null]
          : null,
      });
    };
    channel.onopen = opened;
    channel.onclose = () => tell({ event: 'closed', connection, channel: handle, label: channel.label });
    channel.onmessage = ({ data }) => {
      opened();
      const content = typeof data === 'string' ? { text: data } : { base64: encode(new Uint8Array(data)) };
      tell({ event: 'message', connection, channel: handle, label: channel.label, ...content });
    };
    opened();
    return handle;
  };

  const create = (connection) => {
    const pc = new RTCPeerConnection({ iceServers: [], ...configuration });
    connections.set(connection, pc);
    pc.ondatachannel = ({ channel }) => adopt(connection, channel, false);
    pc.onconnectionstatechange = () => tell({ event: 'state', connection, state: pc.connectionState });
    return pc;
  };
  const gathered = async (pc) => {
    while (pc.iceGatheringState !== 'complete') await new Promise((resolve) => setTimeout(resolve, 5));
    return pc.localDescription.sdp;
  };

  const actions = {
    offer: async ({ connection, label }) => {
      const pc = create(connection);
      adopt(connection, pc.createDataChannel(label), true);
      await pc.setLocalDescription(await pc.createOffer());
      return gathered(pc);
    },
    answer: async ({ connection, sdp }) => {
      const pc = create(connection);
      await pc.setRemoteDescription({ type: 'offer', sdp });
      await pc.setLocalDescription(await pc.createAnswer());
      return gathered(pc);
    },
    accept: ({ connection, sdp }) => connections.get(connection).setRemoteDescription({ type: 'answer', sdp }),
    open: ({ connection, label, options }) =>
      adopt(connection, connections.get(connection).createDataChannel(label, options), true),
    send: ({ channel, messages }) => {
      for (const { text, base64 } of messages)
        channels.get(channel).send(base64 === undefined ? text : wrap(decode(base64)));
    },
    close_channel: ({ channel }) => channels.get(channel).close(),
    close: async ({ connection }) => {
      await connections.get(connection)?.close();
      connections.delete(connection);
    },
  };
  return async (command) => (await actions[command.do](command)) ?? null;
}

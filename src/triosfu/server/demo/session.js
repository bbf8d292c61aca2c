// One LiveKit session over JSON signalling and two peer connections: a readable client in one file.
// The publisher connection is offered by us; the subscriber connection is offered by the server.

import { ChatReader, chatPackets } from './packets.js';

const PROTOCOL = 17;

export class Session extends EventTarget {
  constructor(url, token) {
    super();
    this.url = url;
    this.token = token;
    this.participants = new Map(); // sid -> ParticipantInfo
    this.published = new Map(); // cid -> {track, sender, sid, source}
    this.waiting = new Map(); // cid -> resolve, until track_published
    this.offerId = 0;
    this.left = false;
    this.chat = new ChatReader((identity, message) => this.emit('chat', { identity, message }));
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // Resolves when the server has let us in; rejects with the server's reason.
  async connect() {
    const query = new URLSearchParams({
      access_token: this.token, protocol: PROTOCOL, sdk: 'js', version: '2.0.0', auto_subscribe: '1', json: '1',
    });
    this.socket = new WebSocket(`${this.url.replace(/^http/, 'ws')}/rtc?${query}`);
    await new Promise((resolve, reject) => {
      this.joined = resolve;
      this.socket.onmessage = (message) => this.receive(JSON.parse(message.data));
      this.socket.onerror = async () => {
        const reply = await fetch(`${this.url}/rtc/validate?access_token=${encodeURIComponent(this.token)}`);
        reject(new Error(await reply.text()));
      };
      this.socket.onclose = () => this.finish('the server closed the connection');
    });
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  receive(message) {
    const [[kind, body]] = Object.entries(message);
    const handler = {
      join: () => this.onJoin(body),
      offer: () => this.enqueue(() => this.onOffer(body)),
      answer: () => this.onAnswer(body),
      trickle: () => this.enqueue(() => this.onTrickle(body)),
      update: () => this.onUpdate(body),
      trackPublished: () => this.onTrackPublished(body),
      speakersChanged: () => this.emit('speakers', body.speakers ?? []),
      mute: () => this.emit('remotemute', body),
      leave: () => this.finish(body.reason ?? 'the server ended the session'),
      refreshToken: () => { this.token = body; },
    }[kind];
    if (handler) handler();
  }

  // Descriptions and candidates are applied one after the other, in the order they came.
  enqueue(step) {
    this.queue = (this.queue ?? Promise.resolve()).then(step).catch((error) => this.emit('error', error));
  }

  onJoin(join) {
    this.self = join.participant;
    this.room = join.room;
    const configuration = { iceServers: [] };
    this.publisher = new RTCPeerConnection(configuration);
    this.subscriber = new RTCPeerConnection(configuration);
    for (const [target, connection] of [['PUBLISHER', this.publisher], ['SUBSCRIBER', this.subscriber]]) {
      connection.onicecandidate = ({ candidate }) => {
        if (candidate?.candidate) this.send({ trickle: { candidateInit: JSON.stringify(candidate.toJSON()), target } });
      };
      connection.onconnectionstatechange = () => this.onConnectionState();
    }
    this.reliable = this.publisher.createDataChannel('_reliable', { ordered: true });
    this.lossy = this.publisher.createDataChannel('_lossy', { ordered: false, maxRetransmits: 0 });
    this.subscriber.ondatachannel = ({ channel }) => {
      channel.binaryType = 'arraybuffer';
      channel.onmessage = ({ data }) => this.chat.read(new Uint8Array(data));
    };
    this.subscriber.ontrack = ({ track, streams, transceiver }) => {
      const [participantSid, trackSid] = (streams[0]?.id ?? '').split('|');
      this.emit('track', { participantSid, trackSid: trackSid ?? track.id, track, transceiver });
    };
    for (const participant of join.otherParticipants ?? []) this.participants.set(participant.sid, participant);
    this.pinger = setInterval(() => this.send({ pingReq: { timestamp: Date.now(), rtt: 0 } }),
      (join.pingInterval || 5) * 1000);
    this.emit('participants');
    this.enqueue(() => this.offer());
    this.joined();
  }

  async offer() {
    await this.publisher.setLocalDescription(await this.publisher.createOffer());
    this.offerId += 1;
    this.send({ offer: { type: 'offer', sdp: this.publisher.localDescription.sdp, id: this.offerId } });
    let timer;
    await new Promise((resolve, reject) => {
      this.answered = { resolve, reject };
      timer = setTimeout(() => reject(new Error('no answer from the server')), 15_000);
    });
    clearTimeout(timer);
  }

  // Runs outside the queue: the offer in the queue is waiting for it.
  onAnswer(body) {
    if (body.id && body.id !== this.offerId) return;
    this.publisher.setRemoteDescription({ type: 'answer', sdp: body.sdp })
      .then(this.answered.resolve, this.answered.reject);
  }

  async onOffer(body) {
    await this.subscriber.setRemoteDescription({ type: 'offer', sdp: body.sdp });
    await this.subscriber.setLocalDescription(await this.subscriber.createAnswer());
    this.send({ answer: { type: 'answer', sdp: this.subscriber.localDescription.sdp, id: body.id } });
  }

  async onTrickle(body) {
    const connection = body.target === 'SUBSCRIBER' ? this.subscriber : this.publisher;
    await connection.addIceCandidate(JSON.parse(body.candidateInit));
  }

  onUpdate(body) {
    for (const participant of body.participants ?? []) {
      if (participant.sid === this.self.sid) continue;
      if (participant.state === 'DISCONNECTED') this.participants.delete(participant.sid);
      else this.participants.set(participant.sid, participant);
    }
    this.emit('participants');
  }

  onConnectionState() {
    const state = this.subscriber.connectionState;
    this.emit('state', { connected: 'connected', failed: 'failed', disconnected: 'reconnecting' }[state] ?? 'connecting');
  }

  // Publishes a local track; `source` is LiveKit's: CAMERA, MICROPHONE or SCREEN_SHARE.
  async publish(track, source) {
    const cid = track.id;
    const published = new Promise((resolve, reject) => {
      this.waiting.set(cid, resolve);
      setTimeout(() => reject(new Error(`${source} was not accepted`)), 10_000);
    });
    const settings = track.getSettings();
    const video = track.kind === 'video';
    this.send({ addTrack: {
      cid, name: source.toLowerCase(), type: video ? 'VIDEO' : 'AUDIO', source,
      width: video ? settings.width : undefined, height: video ? settings.height : undefined,
    } });
    const { sid } = await published;
    const transceiver = this.publisher.addTransceiver(track, { direction: 'sendonly', streams: [new MediaStream([track])] });
    this.published.set(source, { track, transceiver, sid });
    this.enqueue(() => this.offer());
    return sid;
  }

  onTrackPublished({ cid, track }) {
    this.waiting.get(cid)?.(track);
    this.waiting.delete(cid);
  }

  unpublish(source) {
    const publication = this.published.get(source);
    if (!publication) return;
    this.published.delete(source);
    publication.track.stop();
    publication.transceiver.stop();
    this.enqueue(() => this.offer());
  }

  mute(source, muted) {
    const publication = this.published.get(source);
    if (!publication) return;
    publication.track.enabled = !muted;
    this.send({ mute: { sid: publication.sid, muted } });
  }

  say(message) {
    for (const packet of chatPackets(message)) this.reliable.send(packet);
  }

  leave() {
    this.send({ leave: { reason: 'CLIENT_INITIATED' } });
    this.finish('you left');
  }

  finish(reason) {
    if (this.left) return;
    this.left = true;
    clearInterval(this.pinger);
    for (const { track } of this.published.values()) track.stop();
    this.publisher?.close();
    this.subscriber?.close();
    this.socket.onclose = null;
    this.socket.close();
    this.emit('left', reason);
  }
}

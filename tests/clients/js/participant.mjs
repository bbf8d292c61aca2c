// A participant by @livekit/rtc-node. Usage: node participant.mjs URL TOKEN
// Publishes a tone, answers each text message, and prints what it sees, one JSON object a line. Ends with its stdin.

import {
  AudioFrame, AudioSource, AudioStream, LocalAudioTrack, Room, RoomEvent, TrackKind, TrackPublishOptions, TrackSource,
  VideoStream, dispose,
} from '@livekit/rtc-node';

const RATE = 48000;
const FRAME = RATE / 100;
const [url, token] = process.argv.slice(2);
const tell = (event, detail = {}) => console.log(JSON.stringify({ event, ...detail }));

const room = new Room();
room.on(RoomEvent.TrackSubscribed, async (track, publication, from) => {
  const video = track.kind === TrackKind.KIND_VIDEO;
  let loud = 0;
  for await (const item of video ? new VideoStream(track) : new AudioStream(track)) {
    if (!video && !item.data.some((sample) => sample > 1000)) continue;
    loud += 1;
    if (loud === 20) tell(video ? 'sees' : 'hears', { who: from.identity });
  }
});
room.on(RoomEvent.DataReceived, async (payload, from) => {
  const text = new TextDecoder().decode(payload);
  tell('data', { who: from?.identity, text });
  await room.localParticipant.publishData(new TextEncoder().encode(`re: ${text}`), { reliable: true });
});
room.on(RoomEvent.Disconnected, (reason) => tell('disconnected', { reason }));

await room.connect(url, token, { autoSubscribe: true, dynacast: false });
const source = new AudioSource(RATE, 1);
const track = LocalAudioTrack.createAudioTrack('tone', source);
await room.localParticipant.publishTrack(track, new TrackPublishOptions({ source: TrackSource.SOURCE_MICROPHONE }));
tell('joined', { identity: room.localParticipant.identity });

let playing = true;
const samples = Int16Array.from({ length: FRAME }, (_, at) => Math.round(8000 * Math.sin((2 * Math.PI * 500 * at) / RATE)));
const play = async () => {
  while (playing) await source.captureFrame(new AudioFrame(samples, RATE, 1, FRAME));
};
const playback = play();

process.stdin.on('end', async () => {
  playing = false;
  await playback;
  await room.disconnect();
  await dispose();
  tell('left');
  process.exit(0);
});
process.stdin.resume();

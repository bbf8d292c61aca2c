// A @livekit/agents worker whose agents play back what they hear: `node echo.mjs`.
// By the environment: LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET; AGENT_NAME for explicit dispatch; WORKER_TYPE
// `publisher` or `participant` for a job for each of these; SILENT for agents that only join. It tells what happens by
// lines of JSON. Each agent is a process, which begins with this same file.

import { AgentServer, AutoSubscribe, ServerOptions, defineAgent, initializeLogger } from '@livekit/agents';
import { AudioSource, AudioStream, LocalAudioTrack, RoomEvent, TrackKind, TrackPublishOptions } from '@livekit/rtc-node';
import { fileURLToPath } from 'node:url';

const RATE = 48000;
const JOB_TYPES = { room: 0, publisher: 1, participant: 2 };
const HERE = fileURLToPath(import.meta.url);
const tell = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));

const echo = async (track, source) => {
  for await (const frame of new AudioStream(track, RATE, 1)) await source.captureFrame(frame);
};

export default defineAgent({
  entry: async (ctx) => {
    const source = new AudioSource(RATE, 1);
    const job = ctx.job.id;
    ctx.addShutdownCallback(async () => tell('over', { job }));
    ctx.room.on(RoomEvent.TrackSubscribed, (track, _, who) => {
      if (track.kind !== TrackKind.KIND_AUDIO) return;
      tell('hears', { job, identity: who.identity });
      echo(track, source).catch(() => {}); // it ends with the track
    });
    await ctx.connect(undefined, AutoSubscribe.AUDIO_ONLY);
    const about = ctx.job.participant?.identity ?? '';
    tell('joined', { job, room: ctx.room.name, metadata: ctx.job.metadata, participant: about, pid: process.pid });
    if (!process.env.SILENT) {
      const track = LocalAudioTrack.createAudioTrack('echo', source);
      await ctx.room.localParticipant.publishTrack(track, new TrackPublishOptions());
    }
    tell('ready', { identity: ctx.room.localParticipant.identity });
  },
});

if (process.argv[1] === HERE) {
  initializeLogger({ pretty: false, level: 'info' });
  const server = new AgentServer(
    new ServerOptions({
      agent: HERE,
      agentName: process.env.AGENT_NAME ?? '',
      serverType: JOB_TYPES[process.env.WORKER_TYPE ?? 'room'],
      requestFunc: async (request) => {
        tell('asked', { job: request.id, room: request.room.name });
        await request.accept('echo', '', '', { mood: 'attentive' });
      },
      loadFunc: async () => 0, // whatever else this machine does
      loadThreshold: Infinity,
      initializeProcessTimeout: 60_000,
      wsURL: process.env.LIVEKIT_URL,
      host: '127.0.0.1',
    }),
  );
  server.event.on('worker_registered', (worker) => tell('registered', { worker }));
  await server.run();
}

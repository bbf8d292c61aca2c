// The page: a form, tiles, buttons and a chat around one Session.

import { Session } from './session.js';

const $ = (id) => document.getElementById(id);
const parameters = new URLSearchParams(location.search);
const SOURCES = { microphone: 'MICROPHONE', camera: 'CAMERA', screen: 'SCREEN_SHARE' };
let session = null;

$('room').value = parameters.get('room') ?? 'demo';
$('identity').value = parameters.get('identity') ?? `guest-${Math.floor(Math.random() * 1000)}`;

function showState(state) {
  $('state').textContent = state;
  $('state').dataset.state = state;
}

async function fetchToken(room, identity) {
  const reply = await fetch(`/demo/token?${new URLSearchParams({ room, identity })}`);
  if (!reply.ok) throw new Error(await reply.text());
  return reply.text();
}

async function join() {
  $('error').textContent = '';
  $('join-button').disabled = true;
  try {
    const identity = $('identity').value;
    const linked = parameters.get('identity') === identity && parameters.get('room') === $('room').value;
    const token = (linked && parameters.get('token')) || await fetchToken($('room').value, identity);
    session = new Session(location.origin, token);
    window.session = session; // for the curious, and for the tests
    session.addEventListener('participants', renderParticipants);
    session.addEventListener('track', ({ detail }) => showTrack(detail));
    session.addEventListener('speakers', ({ detail }) => showSpeakers(detail));
    session.addEventListener('chat', ({ detail }) => showMessage(detail.identity, detail.message));
    session.addEventListener('state', ({ detail }) => showState(detail));
    session.addEventListener('remotemute', ({ detail }) => remoteMute(detail));
    session.addEventListener('error', ({ detail }) => { $('error').textContent = detail.message; });
    session.addEventListener('left', ({ detail }) => left(detail));
    showState('connecting');
    await session.connect();
    $('join').hidden = true;
    $('call').hidden = false;
    tile(session.self.sid, 'camera', `${session.self.identity} (you)`);
  } catch (error) {
    $('error').textContent = error.message;
    showState('failed');
  } finally {
    $('join-button').disabled = false;
  }
}

function left(reason) {
  showState('not joined');
  $('error').textContent = reason;
  $('tiles').replaceChildren();
  $('call').hidden = true;
  $('join').hidden = false;
  for (const id of Object.keys(SOURCES)) $(id).setAttribute('aria-pressed', 'false');
}

// One tile per participant and picture; audio plays from the participant's own tile.
function tile(sid, kind, name) {
  const id = `tile-${sid}-${kind}`;
  let element = $(id);
  if (!element) {
    element = document.createElement('div');
    element.id = id;
    element.className = `tile ${kind}`;
    element.dataset.sid = sid;
    element.innerHTML = '<video autoplay playsinline muted></video><span class="name"></span>';
    $('tiles').append(element);
  }
  if (name) element.querySelector('.name').textContent = name;
  return element;
}

function renderParticipants() {
  for (const element of [...$('tiles').children]) {
    const { sid } = element.dataset;
    if (sid !== session.self?.sid && !session.participants.has(sid)) element.remove();
  }
  for (const participant of session.participants.values()) {
    const element = tile(participant.sid, 'camera', participant.name || participant.identity);
    const tracks = participant.tracks ?? [];
    const microphone = tracks.find((track) => track.source === 'MICROPHONE');
    element.classList.toggle('muted', !microphone || Boolean(microphone.muted));
    const camera = tracks.find((track) => track.source === 'CAMERA');
    if (!camera || camera.muted) element.querySelector('video').srcObject = null;
    else if (element.stream) element.querySelector('video').srcObject = element.stream;
    if (!tracks.some((track) => track.source === 'SCREEN_SHARE')) $(`tile-${participant.sid}-screen`)?.remove();
  }
}

function showTrack({ participantSid, trackSid, track }) {
  const participant = session.participants.get(participantSid);
  const name = participant?.name || participant?.identity || participantSid;
  if (track.kind === 'audio') {
    const audio = new Audio();
    audio.srcObject = new MediaStream([track]);
    tile(participantSid, 'camera', name).append(audio);
    audio.play().catch(() => {});
    return;
  }
  const info = (participant?.tracks ?? []).find((candidate) => candidate.sid === trackSid);
  const kind = info?.source === 'SCREEN_SHARE' ? 'screen' : 'camera';
  const element = tile(participantSid, kind, kind === 'screen' ? `${name}'s screen` : name);
  element.stream = new MediaStream([track]);
  element.querySelector('video').srcObject = element.stream;
}

function showSpeakers(speakers) {
  for (const { sid, active } of speakers) {
    $(`tile-${sid}-camera`)?.classList.toggle('speaking', Boolean(active));
  }
}

function showMessage(identity, message) {
  const line = document.createElement('li');
  const who = document.createElement('b');
  who.textContent = identity;
  line.append(who, message);
  $('messages').append(line);
  while ($('messages').children.length > 500) $('messages').firstChild.remove();
  $('messages').scrollTop = $('messages').scrollHeight;
}

function remoteMute({ sid, muted }) {
  for (const [source, publication] of session.published) {
    if (publication.sid === sid && muted) {
      session.mute(source, true);
      const id = Object.keys(SOURCES).find((key) => SOURCES[key] === source);
      $(id).setAttribute('aria-pressed', 'false');
    }
  }
}

async function toggle(id) {
  const source = SOURCES[id];
  const button = $(id);
  const on = button.getAttribute('aria-pressed') === 'true';
  button.disabled = true;
  try {
    const publication = session.published.get(source);
    if (publication && id === 'microphone') {
      session.mute(source, on);
    } else if (publication) {
      session.unpublish(source);
      if (id === 'camera') tile(session.self.sid, 'camera').querySelector('video').srcObject = null;
      else $(`tile-${session.self.sid}-screen`)?.remove();
    } else {
      await start(id, source);
    }
    button.setAttribute('aria-pressed', String(!on));
  } catch (error) {
    $('error').textContent = `${id}: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

async function start(id, source) {
  const devices = navigator.mediaDevices;
  const stream = id === 'screen'
    ? await devices.getDisplayMedia({ video: true })
    : await devices.getUserMedia(id === 'camera' ? { video: { width: 1280, height: 720 } } : { audio: true });
  const [track] = stream.getTracks();
  if (id !== 'microphone') {
    const name = id === 'screen' ? 'your screen' : undefined;
    tile(session.self.sid, id, name).querySelector('video').srcObject = stream;
  }
  track.onended = () => { if (session.published.get(source)?.track === track) toggle(id); };
  await session.publish(track, source);
}

$('join').addEventListener('submit', (event) => { event.preventDefault(); join(); });
$('chat').addEventListener('submit', (event) => {
  event.preventDefault();
  const message = $('text').value.trim();
  if (!message) return;
  session.say(message);
  showMessage('you', message);
  $('text').value = '';
});
for (const id of Object.keys(SOURCES)) $(id).addEventListener('click', () => toggle(id));
$('leave').addEventListener('click', () => session.leave());
if (parameters.get('token')) join();

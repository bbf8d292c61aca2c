// An application's backend by livekit-server-sdk. Usage: node backend.mjs URL KEY SECRET ROOM IDENTITY
// Makes each call on a room in which somebody is, and prints what came back, as one JSON object.

import { DataPacket_Kind, EgressClient, IngressClient, RoomServiceClient, SipClient } from 'livekit-server-sdk';

const [url, key, secret, room, identity] = process.argv.slice(2);
const rooms = new RoomServiceClient(url, key, secret);
const said = {};

const made = await rooms.createRoom({ name: room, metadata: 'ignored' });
said.room = [made.name, made.metadata, made.sid.slice(0, 3), Number(made.creationTime) > 0];
said.listed = (await rooms.listRooms([room, 'nowhere'])).map((one) => [one.name, one.numParticipants]);
said.participants = (await rooms.listParticipants(room)).map((one) => [one.identity, one.state]);
const changed = await rooms.updateParticipant(room, identity, {
  metadata: 'from node',
  attributes: { mood: 'good' },
  permission: { canSubscribe: true, canPublish: true, canPublishData: true, canUpdateMetadata: true },
});
said.changed = [changed.metadata, changed.attributes, changed.permission.canUpdateMetadata];
const bytes = new TextEncoder().encode('data');
await rooms.sendData(room, bytes, DataPacket_Kind.RELIABLE, { destinationIdentities: [identity], topic: 't' });
said.metadata = (await rooms.updateRoomMetadata(room, 'news')).metadata;
const { tracks } = await rooms.getParticipant(room, identity);
said.muted = (await rooms.mutePublishedTrack(room, identity, tracks[0].sid, true)).muted;
await rooms.updateSubscriptions(room, identity, [tracks[0].sid], true);
try {
  await rooms.mutePublishedTrack(room, identity, tracks[0].sid, false);
} catch (error) {
  said.refused = [error.status, error.code, error.message];
}
const other = `${room} 2`;
await rooms.forwardParticipant(room, identity, other);
said.forwarded = (await rooms.getParticipant(other, identity)).kindDetails;
await rooms.moveParticipant(room, identity, other);
said.moved = [];
for (const name of [room, other]) {
  said.moved.push((await rooms.listParticipants(name)).map((one) => [one.identity, one.kindDetails]));
}
await rooms.removeParticipant(other, identity, { revokeTokenTs: BigInt(Math.floor(Date.now() / 1000) + 1) });
await rooms.deleteRoom(room);
try {
  await rooms.deleteRoom(room);
} catch (error) {
  said.missing = [error.status, error.code, error.message];
}
said.errors = [];
for (const call of [
  () => rooms.createRoom({ name: 'x'.repeat(257) }),
  () => rooms.getParticipant('nowhere', identity),
  () => rooms.moveParticipant('nowhere', identity, 'nowhere'),
  () => new RoomServiceClient(url, key, 'x'.repeat(32)).listRooms(),
]) {
  try {
    await call();
  } catch (error) {
    said.errors.push([error.status, error.code ?? '']);
  }
}
const egress = new EgressClient(url, key, secret);
const ingress = new IngressClient(url, key, secret);
const sip = new SipClient(url, key, secret);
said.absent = [];
for (const call of [
  () => egress.listEgress(),
  () => egress.startWebEgress('https://example.com', {}),
  () => ingress.listIngress(),
  () => sip.listSipInboundTrunk(),
  () => sip.createSipParticipant('trunk', '1', room),
]) {
  try {
    await call();
  } catch (error) {
    said.absent.push([error.status, error.message]);
  }
}
console.log(JSON.stringify(said));

// A peer by werift: an SCTP in TypeScript.

import { RTCPeerConnection } from 'werift';

import { serve, tell } from './data_lines.mjs';
import { dataPeer } from './data_peer.mjs';

await serve(dataPeer({ RTCPeerConnection, tell, wrap: (bytes) => Buffer.from(bytes) }));

// A peer by node-datachannel: libdatachannel with usrsctp. It does not show the reliability of what others open.

import { RTCPeerConnection } from 'node-datachannel/polyfill';

import { serve, tell } from './data_lines.mjs';
import { dataPeer } from './data_peer.mjs';

await serve(dataPeer({ RTCPeerConnection, tell, showsReliability: false }));

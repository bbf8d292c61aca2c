package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
)

// What a line of stdin may ask for; `do` says which of the others matter.
type wish struct {
	Do         string            `json:"do"`
	File       string            `json:"file"`
	Files      []string          `json:"files"`
	Backup     string            `json:"backup"`
	Name       string            `json:"name"`
	Text       string            `json:"text"`
	Reliable   bool              `json:"reliable"`
	To         []string          `json:"to"`
	Topic      string            `json:"topic"`
	Length     int               `json:"length"`
	Attributes map[string]string `json:"attributes"`
	Scenario   string            `json:"scenario"`
	Sid        string            `json:"sid"`
	Whether    bool              `json:"whether"`
	Quality    string            `json:"quality"`
}

var scenarios = map[string]lksdk.SimulateScenario{
	"signal":         lksdk.SimulateSignalReconnect,
	"tls":            lksdk.SimulateForceTLS,
	"speakers":       lksdk.SimulateSpeakerUpdate,
	"migration":      lksdk.SimulateMigration,
	"server leave":   lksdk.SimulateServerLeave,
	"node failure":   lksdk.SimulateNodeFailure,
	"full reconnect": lksdk.SimulateLeaveRequestFullReconnect,
}

// What came of one remote track. Numbers that are missing, and those that come twice, are told apart.
type received struct {
	who, kind, codec   string
	packets, keyFrames int
	missing, repeated  int
	width, height      int
	last               uint16
}

type participant struct {
	room   *lksdk.Room
	lock   sync.Mutex
	tracks map[string]*received
}

func participate(arguments []string) {
	url, key, secret, room, identity, mode := arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]
	grant := &auth.VideoGrant{RoomJoin: true, Room: room}
	grant.SetCanUpdateOwnMetadata(true)
	token, err := auth.NewAccessToken(key, secret).SetVideoGrant(grant).SetIdentity(identity).ToJWT()
	check(err)
	p := &participant{tracks: map[string]*received{}}
	p.room = lksdk.NewRoom(p.callback())
	var options []lksdk.ConnectOption
	if mode == "single" {
		options = append(options, lksdk.WithSinglePeerConnection())
	}
	options = append(options, lksdk.WithAutoSubscribe(arguments[6] == "subscribe"))
	for _, file := range arguments[7:] {
		track, err := open(file)
		check(err)
		options = append(options, lksdk.WithTrack(track, &lksdk.TrackPublicationOptions{Name: "at once"}))
	}
	p.handlers()
	if err := p.room.JoinWithToken(url, token, options...); err != nil {
		tell("refused", map[string]any{"text": err.Error()})
		return
	}
	tell("joined", map[string]any{"identity": p.room.LocalParticipant.Identity(), "room": p.room.Name(), "sid": p.room.SID()})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked wish
		check(json.Unmarshal(lines.Bytes(), &asked))
		go p.do(asked)
	}
	p.room.Disconnect()
	time.Sleep(200 * time.Millisecond) // it closes in the background
	tell("left", nil)
}

func (p *participant) callback() *lksdk.RoomCallback {
	callback := lksdk.NewRoomCallback()
	callback.OnTrackSubscribed = p.subscribed
	callback.OnTrackUnsubscribed = func(_ *webrtc.TrackRemote, publication *lksdk.RemoteTrackPublication, who *lksdk.RemoteParticipant) {
		tell("unsubscribed", map[string]any{"who": who.Identity(), "sid": publication.SID()})
	}
	callback.OnTrackSubscriptionFailed = func(sid string, who *lksdk.RemoteParticipant) {
		tell("subscription failed", map[string]any{"who": who.Identity(), "sid": sid})
	}
	callback.OnTrackMuted = func(publication lksdk.TrackPublication, who lksdk.Participant) {
		tell("muted", map[string]any{"who": who.Identity(), "sid": publication.SID()})
	}
	callback.OnTrackUnmuted = func(publication lksdk.TrackPublication, who lksdk.Participant) {
		tell("unmuted", map[string]any{"who": who.Identity(), "sid": publication.SID()})
	}
	callback.OnTrackPublished = func(publication *lksdk.RemoteTrackPublication, who *lksdk.RemoteParticipant) {
		tell("published by", map[string]any{"who": who.Identity(), "sid": publication.SID()})
	}
	callback.OnTrackUnpublished = func(publication *lksdk.RemoteTrackPublication, who *lksdk.RemoteParticipant) {
		tell("unpublished by", map[string]any{"who": who.Identity(), "sid": publication.SID()})
	}
	callback.OnLocalTrackUnpublished = func(publication *lksdk.LocalTrackPublication, _ *lksdk.LocalParticipant) {
		tell("unpublished", map[string]any{"sid": publication.SID()})
	}
	callback.OnLocalTrackSubscribed = func(publication *lksdk.LocalTrackPublication, _ *lksdk.LocalParticipant) {
		tell("heard", map[string]any{"sid": publication.SID()})
	}
	callback.OnDataPacket = func(data lksdk.DataPacket, from lksdk.DataReceiveParams) {
		if packet, ok := data.(*lksdk.UserDataPacket); ok {
			tell("data", map[string]any{"who": from.SenderIdentity, "text": string(packet.Payload), "topic": packet.Topic})
		}
	}
	callback.OnAttributesChanged = func(changed map[string]string, who lksdk.Participant) {
		tell("attributes", map[string]any{"who": who.Identity(), "attributes": changed})
	}
	callback.OnMetadataChanged = func(_ string, who lksdk.Participant) {
		tell("metadata", map[string]any{"who": who.Identity(), "text": who.Metadata()})
	}
	callback.OnRoomMetadataChanged = func(metadata string) { tell("room metadata", map[string]any{"text": metadata}) }
	callback.OnActiveSpeakersChanged = func(speakers []lksdk.Participant) {
		names := []string{}
		for _, speaker := range speakers {
			names = append(names, speaker.Identity())
		}
		tell("speakers", map[string]any{"who": names})
	}
	callback.OnConnectionQualityChanged = func(update *livekit.ConnectionQualityInfo, who lksdk.Participant) {
		tell("quality", map[string]any{"who": who.Identity(), "text": update.Quality.String()})
	}
	callback.OnParticipantConnected = func(who *lksdk.RemoteParticipant) {
		tell("connected", map[string]any{"who": who.Identity()})
	}
	callback.OnParticipantDisconnected = func(who *lksdk.RemoteParticipant) {
		tell("gone", map[string]any{"who": who.Identity(), "reason": who.DisconnectReason().String()})
	}
	callback.OnReconnecting = func() { tell("reconnecting", nil) }
	callback.OnReconnected = func() { tell("reconnected", nil) }
	callback.OnRoomMovedWithSID = func(name, _, _ string) { tell("moved", map[string]any{"room": name}) }
	callback.OnDisconnectedWithReason = func(reason lksdk.DisconnectionReason) {
		tell("disconnected", map[string]any{"text": string(reason), "reason": p.room.DisconnectReason().String()})
	}
	return callback
}

func (p *participant) handlers() {
	check(p.room.RegisterRpcMethod("double", func(call lksdk.RpcInvocationData) (string, error) {
		if call.Payload == "" {
			return "", lksdk.NewRpcError(4000, "nothing to double", nil)
		}
		return call.Payload + call.Payload, nil
	}))
	check(p.room.RegisterTextStreamHandler("chat", func(reader *lksdk.TextStreamReader, from string) {
		text := reader.ReadAll()
		tell("text", map[string]any{"who": from, "length": len(text), "whole": strings.Count(text, text[:1]) == len(text)})
	}))
	check(p.room.RegisterByteStreamHandler("file", func(reader *lksdk.ByteStreamReader, from string) {
		content := reader.ReadAll()
		whole := true
		for at, octet := range content {
			whole = whole && octet == byte(at)
		}
		tell("bytes", map[string]any{"who": from, "length": len(content), "whole": whole})
	}))
}

func (p *participant) subscribed(track *webrtc.TrackRemote, publication *lksdk.RemoteTrackPublication, who *lksdk.RemoteParticipant) {
	found := &received{who: who.Identity(), kind: string(publication.Kind()), codec: track.Codec().MimeType}
	p.lock.Lock()
	p.tracks[publication.SID()] = found
	p.lock.Unlock()
	tell("subscribed", map[string]any{"who": found.who, "sid": publication.SID(), "kind": found.kind, "codec": found.codec})
	if track.Kind() == webrtc.RTPCodecTypeVideo {
		who.WritePLI(track.SSRC())
	}
	go func() {
		for {
			packet, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			p.lock.Lock()
			if step := packet.SequenceNumber - found.last; found.packets > 0 && step != 1 {
				if step == 0 || step > 1<<15 { // from before: it may have filled a hole
					if found.missing > 0 && step != 0 {
						found.missing--
					} else {
						found.repeated++
					}
					p.lock.Unlock()
					continue
				}
				found.missing += int(step) - 1
			}
			found.last = packet.SequenceNumber
			found.packets++
			if strings.EqualFold(found.codec, webrtc.MimeTypeVP8) {
				found.look(packet.Payload)
			}
			p.lock.Unlock()
		}
	}()
}

// look reads the size of a picture out of the first packet of a VP8 key frame (RFC 7741, 4.2; RFC 6386, 9.1).
func (r *received) look(payload []byte) {
	if len(payload) < 1 {
		return
	}
	start := payload[0]&0x10 != 0 && payload[0]&0x07 == 0
	at := 1
	if payload[0]&0x80 != 0 && len(payload) > 2 {
		extension := payload[1]
		at++
		if extension&0x80 != 0 {
			if payload[at]&0x80 != 0 {
				at++
			}
			at++
		}
		if extension&0x40 != 0 {
			at++
		}
		if extension&0x30 != 0 {
			at++
		}
	}
	if start && len(payload) >= at+10 && payload[at]&0x01 == 0 {
		r.keyFrames++
		r.width = (int(payload[at+6]) | int(payload[at+7])<<8) & 0x3fff
		r.height = (int(payload[at+8]) | int(payload[at+9])<<8) & 0x3fff
	}
}

func (p *participant) report() {
	others := map[string]any{}
	for _, who := range p.room.GetRemoteParticipants() {
		sids := []string{}
		for _, publication := range who.TrackPublications() {
			sids = append(sids, publication.SID())
		}
		others[who.Identity()] = map[string]any{
			"tracks": sids, "metadata": who.Metadata(), "attributes": who.Attributes(), "name": who.Name(),
		}
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	tracks := []any{}
	for sid, found := range p.tracks {
		tracks = append(tracks, map[string]any{
			"sid": sid, "who": found.who, "kind": found.kind, "codec": found.codec, "packets": found.packets,
			"key_frames": found.keyFrames, "missing": found.missing, "repeated": found.repeated,
			"width": found.width, "height": found.height,
		})
	}
	tell("report", map[string]any{
		"sid": p.room.LocalParticipant.SID(), "others": others, "tracks": tracks, "state": string(p.room.ConnectionState()),
	})
}

func (p *participant) publication(sid string) *lksdk.RemoteTrackPublication {
	for _, who := range p.room.GetRemoteParticipants() {
		for _, publication := range who.TrackPublications() {
			if publication.SID() == sid {
				return publication.(*lksdk.RemoteTrackPublication)
			}
		}
	}
	return nil
}

// open reads a file of a tone or of ten pictures a second. For VP8 the SDK takes each of them for one that lasts a second.
func open(file string, more ...lksdk.ReaderSampleProviderOption) (*lksdk.LocalTrack, error) {
	if !strings.HasSuffix(file, ".ogg") {
		more = append(more, lksdk.ReaderTrackWithFrameDuration(100*time.Millisecond))
	}
	return lksdk.NewLocalFileTrack(file, more...)
}

func (p *participant) publish(asked wish) {
	local := p.room.LocalParticipant
	options := &lksdk.TrackPublicationOptions{Name: asked.Name, VideoWidth: 160, VideoHeight: 90}
	var published *lksdk.LocalTrackPublication
	var err error
	if len(asked.Files) > 0 {
		var layers []*lksdk.LocalTrack
		for at, file := range asked.Files { // low, middle, high
			size := uint32(160) << at
			layer := &livekit.VideoLayer{Quality: livekit.VideoQuality(at), Width: size, Height: size * 9 / 16}
			track, err := open(file, lksdk.ReaderTrackWithSampleOptions(lksdk.WithSimulcast("layers", layer)))
			check(err)
			layers = append(layers, track)
		}
		published, err = local.PublishSimulcastTrack(layers, options)
	} else {
		track, failed := open(asked.File)
		check(failed)
		var more []lksdk.LocalTrackPublishOption
		if asked.Backup != "" {
			other, failed := open(asked.Backup)
			check(failed)
			more = append(more, lksdk.WithBackupCodec(other))
		}
		published, err = local.PublishTrack(track, options, more...)
	}
	if err != nil {
		tell("not published", map[string]any{"text": err.Error()})
		return
	}
	tell("published", map[string]any{"sid": published.SID(), "name": asked.Name})
}

func (p *participant) do(asked wish) {
	local := p.room.LocalParticipant
	switch asked.Do {
	case "publish":
		p.publish(asked)
	case "unpublish":
		check(local.UnpublishTrack(asked.Sid))
	case "mute":
		for _, publication := range local.TrackPublications() {
			if publication.SID() == asked.Sid {
				publication.(*lksdk.LocalTrackPublication).SetMuted(asked.Whether)
			}
		}
	case "data":
		packet := &lksdk.UserDataPacket{Payload: []byte(asked.Text), Topic: asked.Topic}
		check(local.PublishDataPacket(packet, lksdk.WithDataPublishReliable(asked.Reliable), lksdk.WithDataPublishDestination(asked.To)))
	case "count":
		for number := range asked.Length {
			packet := lksdk.UserData([]byte(fmt.Sprint(number)))
			check(local.PublishDataPacket(packet, lksdk.WithDataPublishReliable(true)))
			time.Sleep(20 * time.Millisecond)
		}
		tell("counted", nil)
	case "rpc":
		timeout := 10 * time.Second
		answer, err := local.PerformRpc(lksdk.PerformRpcParams{
			DestinationIdentity: asked.To[0], Method: asked.Name, Payload: asked.Text, ResponseTimeout: &timeout,
		})
		if err != nil {
			tell("failed", map[string]any{"text": err.Error()})
		} else {
			tell("answer", map[string]any{"text": *answer})
		}
	case "text":
		local.SendText(strings.Repeat("x", asked.Length), lksdk.StreamTextOptions{Topic: "chat"})
	case "bytes":
		content := make([]byte, asked.Length)
		for at := range content {
			content[at] = byte(at)
		}
		writer := local.StreamBytes(lksdk.StreamBytesOptions{Topic: "file", TotalSize: uint64(asked.Length), MimeType: "x/y"})
		done := func() { writer.Close() }
		writer.Write(content, &done)
	case "attributes":
		local.SetAttributes(asked.Attributes)
	case "metadata":
		local.SetMetadata(asked.Text)
	case "name":
		local.SetName(asked.Name)
	case "simulate":
		p.room.Simulate(scenarios[asked.Scenario])
	case "subscribe":
		check(p.publication(asked.Sid).SetSubscribed(asked.Whether))
	case "enable":
		p.publication(asked.Sid).SetEnabled(asked.Whether)
	case "quality":
		check(p.publication(asked.Sid).SetVideoQuality(livekit.VideoQuality(livekit.VideoQuality_value[asked.Quality])))
	case "report":
		p.report()
	}
}

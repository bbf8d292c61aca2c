package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/webhook"
	lksdk "github.com/livekit/server-sdk-go/v2"
)

// refusal is what an error of the server API says.
func refusal(err error) []string {
	var said lksdk.ServerError
	if !errors.As(err, &said) {
		return []string{"", "no error of the server"}
	}
	return []string{string(said.Code()), said.Msg()}
}

// serveRooms makes each call of RoomService on a room in which somebody is, as an application's backend does.
func serveRooms(url, key, secret, room, identity string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	rooms := lksdk.NewRoomServiceClient(url, key, secret)
	said := map[string]any{}
	made, err := rooms.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room, Metadata: "ignored"})
	check(err)
	said["room"] = []any{made.Name, made.Metadata, made.Sid[:3], made.CreationTime > 0}
	listed, err := rooms.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{room, "nowhere"}})
	check(err)
	said["listed"] = []any{len(listed.Rooms), listed.Rooms[0].Name, listed.Rooms[0].NumParticipants}
	in, err := rooms.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room})
	check(err)
	said["participants"] = []any{len(in.Participants), in.Participants[0].Identity, in.Participants[0].State.String()}
	changed, err := rooms.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{
		Room: room, Identity: identity, Metadata: "from go", Attributes: map[string]string{"mood": "good"},
		Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanPublish: true, CanPublishData: true},
	})
	check(err)
	said["changed"] = []any{changed.Metadata, changed.Attributes, changed.Permission.CanUpdateMetadata}
	topic := "t"
	_, err = rooms.SendData(ctx, &livekit.SendDataRequest{
		Room: room, Data: []byte("from go"), Kind: livekit.DataPacket_RELIABLE, DestinationIdentities: []string{identity}, Topic: &topic,
	})
	check(err)
	news, err := rooms.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: room, Metadata: "news"})
	check(err)
	said["metadata"] = news.Metadata
	who := &livekit.RoomParticipantIdentity{Room: room, Identity: identity}
	one, err := rooms.GetParticipant(ctx, who)
	check(err)
	sid := one.Tracks[0].Sid
	muted, err := rooms.MutePublishedTrack(ctx, &livekit.MuteRoomTrackRequest{Room: room, Identity: identity, TrackSid: sid, Muted: true})
	check(err)
	said["muted"] = muted.Track.Muted
	_, err = rooms.MutePublishedTrack(ctx, &livekit.MuteRoomTrackRequest{Room: room, Identity: identity, TrackSid: sid})
	said["refused"] = refusal(err)
	_, err = rooms.UpdateSubscriptions(ctx, &livekit.UpdateSubscriptionsRequest{
		Room: room, Identity: identity, TrackSids: []string{sid}, Subscribe: true,
	})
	check(err)
	other := room + " 2"
	_, err = rooms.ForwardParticipant(ctx, &livekit.ForwardParticipantRequest{Room: room, Identity: identity, DestinationRoom: other})
	check(err)
	_, err = rooms.MoveParticipant(ctx, &livekit.MoveParticipantRequest{Room: room, Identity: identity, DestinationRoom: other})
	check(err)
	moved, err := rooms.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: other})
	check(err)
	said["moved"] = []any{len(moved.Participants), moved.Participants[0].Identity}
	_, err = rooms.RemoveParticipant(ctx, &livekit.RoomParticipantIdentity{Room: other, Identity: identity})
	check(err)
	_, err = rooms.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: room})
	check(err)
	_, err = rooms.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: room})
	said["missing"] = refusal(err)
	_, err = lksdk.NewRoomServiceClient(url, key, "another secret").ListRooms(ctx, &livekit.ListRoomsRequest{})
	said["stranger"] = refusal(err)[0]
	_, err = lksdk.NewEgressClient(url, key, secret).ListEgress(ctx, &livekit.ListEgressRequest{})
	said["egress"] = refusal(err)
	tell("said", said)
}

// dispatchAgents makes each call of AgentDispatchService.
func dispatchAgents(url, key, secret, room string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	agents := lksdk.NewAgentDispatchServiceClient(url, key, secret)
	said := map[string]any{}
	made, err := agents.CreateDispatch(ctx, &livekit.CreateAgentDispatchRequest{AgentName: "helper", Room: room, Metadata: "m"})
	check(err)
	said["made"] = []any{made.Id[:3], made.AgentName, made.Room, made.Metadata}
	listed, err := agents.ListDispatch(ctx, &livekit.ListAgentDispatchRequest{Room: room})
	check(err)
	names := []string{}
	for _, one := range listed.AgentDispatches {
		names = append(names, one.AgentName)
	}
	said["listed"] = names
	one, err := agents.GetDispatch(ctx, made.Id, room)
	check(err)
	said["one"] = one.AgentName
	deleted, err := agents.DeleteDispatch(ctx, &livekit.DeleteAgentDispatchRequest{DispatchId: made.Id, Room: room})
	check(err)
	said["deleted"] = deleted.Id == made.Id
	_, err = agents.DeleteDispatch(ctx, &livekit.DeleteAgentDispatchRequest{DispatchId: "AD_none", Room: room})
	said["missing"] = refusal(err)
	tell("said", said)
}

// receiveWebhook takes one request, of stdin as JSON, as a backend does; then the same with a changed body.
func receiveWebhook(key, secret string) {
	var came struct{ Body, Token string }
	check(json.NewDecoder(os.Stdin).Decode(&came))
	keys := auth.NewSimpleKeyProvider(key, secret)
	request := func(body string) *http.Request {
		made, err := http.NewRequest(http.MethodPost, "http://localhost/", strings.NewReader(body))
		check(err)
		made.Header.Set("Authorization", came.Token)
		return made
	}
	event, err := webhook.ReceiveWebhookEvent(request(came.Body), keys)
	check(err)
	_, err = webhook.ReceiveWebhookEvent(request(came.Body+" "), keys)
	tell("said", map[string]any{
		"name": event.Event, "id": event.Id, "room": event.Room.Name, "dropped": event.NumDropped,
		"created": event.CreatedAt, "refused": err == webhook.ErrInvalidChecksum,
	})
}

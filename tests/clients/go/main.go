// LiveKit's Go SDKs as tests drive them. Usage:
//
//	client participant URL KEY SECRET ROOM IDENTITY single|dual subscribe|no-subscribe [FILE to publish at once]...
//	client backend URL KEY SECRET ROOM IDENTITY
//	client dispatches URL KEY SECRET ROOM
//	client webhook KEY SECRET
//
// All tokens are made here. What it tells is JSON, an object a line; what the SDKs log goes to stderr.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
)

var telling sync.Mutex

// tell says what happened, with `event` in front.
func tell(event string, detail map[string]any) {
	said := fmt.Sprintf(`{"event": %q}`, event)
	if len(detail) > 0 {
		rest, err := json.Marshal(detail)
		check(err)
		said = strings.TrimSuffix(said, "}") + ", " + string(rest[1:])
	}
	telling.Lock()
	defer telling.Unlock()
	fmt.Println(said)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "participant":
		participate(arguments)
	case "backend":
		serveRooms(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4])
	case "dispatches":
		dispatchAgents(arguments[0], arguments[1], arguments[2], arguments[3])
	case "webhook":
		receiveWebhook(arguments[0], arguments[1])
	}
}

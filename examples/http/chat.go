// Pomelo's chat sample behind shaddock, with the standard library alone: go run chat.go [PORT]
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

type object = map[string]any
type member struct{ room, name string }
type answered struct {
	time   time.Time
	answer []byte
}

var (
	keys    [][]byte
	lock    sync.Mutex
	members = map[string]member{}   // by sid
	seen    = map[string]answered{} // by id
)

func isSigned(head http.Header, body []byte) bool {
	sent, err := strconv.ParseInt(head.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	for _, given := range strings.Fields(head.Get("webhook-signature")) {
		for _, key := range keys {
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "%s.%d.%s", head.Get("webhook-id"), sent, body)
			if hmac.Equal([]byte("v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))), []byte(given)) {
				return true
			}
		}
	}
	return false
}

func users(room string) []string {
	names := []string{}
	for _, one := range members {
		if one.room == room {
			names = append(names, one.name)
		}
	}
	slices.Sort(names)
	return names
}

func push(route string, body object, room string, names []string) object {
	users := []string{}
	for _, name := range names { // A user is a name in a room.
		users = append(users, name+"*"+room)
	}
	return object{"push": object{"route": route, "body": body, "users": users}}
}

func failed(code, message string) object {
	return object{"error": object{"code": code, "message": message}}
}

func answer(route, sid string, body map[string]string) object {
	one, isIn := members[sid]
	switch route {
	case "connector.entryHandler.enter": // A real chat asks for a token here.
		room, name := body["rid"], body["username"]
		others := users(room)
		if isIn || slices.Contains(others, name) || name == "" || strings.Contains(name, "*") {
			return object{"body": object{"code": 500, "error": true}}
		}
		members[sid] = member{room, name}
		actions := []object{{"bind": name + "*" + room}, {"set": object{"rid": room}}, push("onAdd", object{"user": name}, room, others)}
		return object{"body": object{"users": users(room)}, "actions": actions}
	case "chat.chatHandler.send":
		if !isIn {
			return failed("CHAT-401", "enter a room first")
		}
		target, to, code := body["target"], users(one.room), 200
		if target != "*" {
			to = slices.DeleteFunc(to, func(name string) bool { return name != target })
		}
		if len(to) == 0 {
			code = 404
		}
		chat := object{"msg": body["content"], "from": one.name, "target": target}
		return object{"body": object{"code": code}, "actions": []object{push("onChat", chat, one.room, to)}}
	case "closed":
		if !isIn {
			return object{}
		}
		delete(members, sid)
		return object{"actions": []object{push("onLeave", object{"user": one.name}, one.room, users(one.room))}}
	}
	return failed("CHAT-404", "no such route")
}

func serve(response http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil || !isSigned(request.Header, body) {
		response.WriteHeader(http.StatusUnauthorized)
		return
	}
	var call struct {
		Event, Route string
		Session      struct{ Sid string }
		Body         map[string]string
	}
	if err := json.Unmarshal(body, &call); err != nil {
		response.WriteHeader(http.StatusBadRequest)
		return
	}
	lock.Lock()
	defer lock.Unlock()
	id := request.Header.Get("webhook-id")
	known, isRepeated := seen[id]
	if !isRepeated { // One that is repeated is carried out once.
		for old, one := range seen {
			if time.Since(one.time) > 10*time.Minute { // Older ones have an old timestamp.
				delete(seen, old)
			}
		}
		// Not by the path, which is not signed.
		text, _ := json.Marshal(answer(call.Event+call.Route, call.Session.Sid, call.Body))
		known = answered{time.Now(), text}
		seen[id] = known
	}
	response.Header().Set("content-type", "application/json")
	response.Write(known.answer)
}

func main() {
	for _, text := range strings.Fields(os.Getenv("CHAT_SECRET")) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
		if err != nil {
			log.Fatal("CHAT_SECRET: ", err)
		}
		if len(key) > 0 {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		log.Fatal("CHAT_SECRET has no key") // With an empty one everybody could sign.
	}
	port := "8000"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, http.HandlerFunc(serve)))
}

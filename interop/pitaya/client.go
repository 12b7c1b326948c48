package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/topfreegames/pitaya/v3/pkg/client"
	"github.com/topfreegames/pitaya/v3/pkg/conn/message"
	"github.com/topfreegames/pitaya/v3/pkg/conn/packet"
)

// What the test wants done: a line of standard input.
type command struct {
	Do    string          `json:"do"`
	Route string          `json:"route"`
	Body  json.RawMessage `json:"body"`
}

// What happened: a line of standard output.
type event struct {
	Event string          `json:"event"`
	ID    uint            `json:"id,omitempty"`
	Route string          `json:"route,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Pitaya's client does not say that it was kicked, and may see the end of the connection before the KICK that came with it: its loop picks
// between the two at random. So its bytes go through a relay that looks at the packages.
func relay(address string, events chan<- event) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	go func() {
		defer server.Close()
		client, err := listener.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		go io.Copy(server, client)
		io.Copy(client, io.TeeReader(server, &packages{events: events}))
	}()
	return listener.Addr().String(), nil
}

// The packages of a server: type, length in three bytes, body. A KICK is told before the client can read it.
type packages struct {
	pending []byte
	events  chan<- event
}

func (p *packages) Write(bytes []byte) (int, error) {
	p.pending = append(p.pending, bytes...)
	for len(p.pending) >= 4 {
		head := p.pending
		length := 4 + (int(head[1])<<16 | int(head[2])<<8 | int(head[3]))
		if len(head) < length {
			break
		}
		if head[0] == packet.Kick {
			p.events <- event{Event: "kick"}
		}
		p.pending = head[length:]
	}
	return len(bytes), nil
}

// A client that does what it is told on standard input.
func runClient(address string) {
	events := make(chan event, 1024)
	c := client.New(logrus.WarnLevel, 10*time.Second)
	address, err := relay(address, events)
	if err == nil {
		err = c.ConnectTo(address)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	events <- event{Event: "connected"}
	go receive(c, events)
	go obey(c, events)
	out := json.NewEncoder(os.Stdout)
	for e := range events {
		if err := out.Encode(e); err != nil || e.Event == "end" {
			return
		}
	}
}

func receive(c *client.Client, events chan<- event) {
	for {
		select {
		case m := <-c.MsgChannel():
			events <- of(m)
		case <-time.After(10 * time.Millisecond):
			if !c.ConnectedStatus() {
				events <- event{Event: "closed"}
				return
			}
		}
	}
}

func of(m *message.Message) event {
	e := event{Event: "answer", ID: m.ID, Route: m.Route, Body: m.Data}
	switch {
	case m.Type == message.Push:
		e.Event = "push"
	case m.Err:
		e.Event = "error"
	}
	if !json.Valid(e.Body) {
		e.Body, _ = json.Marshal(string(m.Data))
	}
	return e
}

func obey(c *client.Client, events chan<- event) {
	defer func() { events <- event{Event: "end"} }()
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		var wanted command
		if err := json.Unmarshal(line, &wanted); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		switch wanted.Do {
		case "request":
			id, err := c.SendRequest(wanted.Route, wanted.Body)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			events <- event{Event: "sent", ID: id}
		case "notify":
			if err := c.SendNotify(wanted.Route, wanted.Body); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
		}
	}
}

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/topfreegames/pitaya/v3/pkg/client"
	"github.com/topfreegames/pitaya/v3/pkg/conn/message"
	"github.com/topfreegames/pitaya/v3/pkg/logger"
	logruswrapper "github.com/topfreegames/pitaya/v3/pkg/logger/logrus"
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

// Pitaya's client tells of a KICK only in its log.
type kickHook struct {
	events chan<- event
}

func (kickHook) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (h kickHook) Fire(entry *logrus.Entry) error {
	if strings.Contains(entry.Message, "got kick packet") {
		h.events <- event{Event: "kick"}
	}
	return nil
}

// A client that does what it is told on standard input.
func runClient(address string) {
	events := make(chan event, 1024)
	c := client.New(logrus.WarnLevel, 10*time.Second)
	hookLog(kickHook{events})
	if err := c.ConnectTo(address); err != nil {
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

func hookLog(hook logrus.Hook) {
	log := logrus.New()
	log.SetOutput(os.Stderr)
	log.SetLevel(logrus.WarnLevel)
	log.AddHook(hook)
	logger.SetLogger(logruswrapper.NewWithLogger(log))
}

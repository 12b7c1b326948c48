// nano with the three routes of the bench: bench.echo.echo, bench.echo.bind, bench.echo.push.
//
// Everything has its default, except that the log is silent and the heartbeat is as rare as with all others.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lonng/nano"
	"github.com/lonng/nano/component"
	"github.com/lonng/nano/serialize/json"
	"github.com/lonng/nano/session"
)

type message struct {
	I string `json:"i"`
	P string `json:"p"`
}

type who struct {
	UID string `json:"uid"`
}

type done struct {
	Code int `json:"code"`
}

// Echo has the handlers.
type Echo struct {
	component.Base
	everybody *nano.Group
}

// Echo answers with what it got.
func (e *Echo) Echo(s *session.Session, m *message) error {
	return s.Response(m)
}

// Bind gives the session its user and puts it among those who get the pushes.
func (e *Echo) Bind(s *session.Session, w *who) error {
	uid, err := strconv.ParseInt(w.UID, 10, 64)
	if err != nil {
		return err
	}
	if err := s.Bind(uid); err != nil {
		return err
	}
	if err := e.everybody.Add(s); err != nil {
		return err
	}
	return s.Response(&done{Code: 200})
}

// Push sends one message to all who are bound.
func (e *Echo) Push(s *session.Session, m *message) error {
	if err := e.everybody.Broadcast("onPush", m); err != nil {
		return err
	}
	return s.Response(&done{Code: 200})
}

type silent struct{}

func (silent) Println(...interface{})            {}
func (silent) Fatal(v ...interface{})            { fmt.Fprintln(os.Stderr, v...); os.Exit(1) }
func (silent) Fatalf(f string, v ...interface{}) { fmt.Fprintf(os.Stderr, f+"\n", v...); os.Exit(1) }

func main() {
	transport := flag.String("transport", "tcp", "tcp or ws")
	port := flag.Int("port", 3750, "port on 127.0.0.1")
	flag.Parse()

	echo := &Echo{everybody: nano.NewGroup("everybody")}
	session.Lifetime.OnClosed(func(s *session.Session) { _ = echo.everybody.Leave(s) })
	components := &component.Components{}
	components.Register(echo, component.WithName("bench.echo"), component.WithNameFunc(strings.ToLower))

	nano.Listen(fmt.Sprintf("127.0.0.1:%d", *port),
		nano.WithComponents(components),
		nano.WithSerializer(json.NewSerializer()),
		nano.WithHeartbeatInterval(60*time.Second),
		nano.WithIsWebsocket(*transport == "ws"),
		nano.WithWSPath("/"),
		nano.WithCheckOriginFunc(func(*http.Request) bool { return true }),
		nano.WithLogger(silent{}),
	)
}

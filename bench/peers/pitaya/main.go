// Pitaya v3, one frontend in standalone mode, with the three routes of the bench: bench.echo.echo, bench.echo.bind,
// bench.echo.push.
//
// Everything has its default, except that the log is silent, the heartbeat is as rare as with all others, and bodies are
// not compressed (no other server of the bench does that).
package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	pitaya "github.com/topfreegames/pitaya/v3/pkg"
	"github.com/topfreegames/pitaya/v3/pkg/acceptor"
	"github.com/topfreegames/pitaya/v3/pkg/component"
	"github.com/topfreegames/pitaya/v3/pkg/config"
	"github.com/topfreegames/pitaya/v3/pkg/groups"
	"github.com/topfreegames/pitaya/v3/pkg/logger"
	logruswrapper "github.com/topfreegames/pitaya/v3/pkg/logger/logrus"
)

const everybody = "everybody"

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
	app pitaya.Pitaya
}

// Echo answers with what it got.
func (e *Echo) Echo(ctx context.Context, m *message) (*message, error) {
	return m, nil
}

// Bind gives the session its user and puts it among those who get the pushes.
func (e *Echo) Bind(ctx context.Context, w *who) (*done, error) {
	s := e.app.GetSessionFromCtx(ctx)
	if err := s.Bind(ctx, w.UID); err != nil {
		return nil, err
	}
	if err := e.app.GroupAddMember(ctx, everybody, w.UID); err != nil {
		return nil, err
	}
	if err := s.OnClose(func() { _ = e.app.GroupRemoveMember(context.Background(), everybody, w.UID) }); err != nil {
		return nil, err
	}
	return &done{Code: 200}, nil
}

// Push sends one message to all who are bound.
func (e *Echo) Push(ctx context.Context, m *message) (*done, error) {
	if err := e.app.GroupBroadcast(ctx, "bench", everybody, "onPush", m); err != nil {
		return nil, err
	}
	return &done{Code: 200}, nil
}

func main() {
	transport := flag.String("transport", "tcp", "tcp or ws")
	port := flag.Int("port", 3850, "port on 127.0.0.1")
	flag.Parse()

	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	logger.SetLogger(logruswrapper.NewWithLogger(log))

	conf := config.NewDefaultPitayaConfig()
	conf.Heartbeat.Interval = 60 * time.Second
	conf.Handler.Messages.Compression = false
	builder := pitaya.NewDefaultBuilder(true, "bench", pitaya.Standalone, map[string]string{}, *conf)
	address := fmt.Sprintf("127.0.0.1:%d", *port)
	if *transport == "ws" {
		builder.AddAcceptor(acceptor.NewWSAcceptor(address))
	} else {
		builder.AddAcceptor(acceptor.NewTCPAcceptor(address))
	}
	builder.Groups = groups.NewMemoryGroupService(builder.Config.Groups.Memory)
	app := builder.Build()
	defer app.Shutdown()

	if err := app.GroupCreate(context.Background(), everybody); err != nil {
		panic(err)
	}
	app.Register(&Echo{app: app}, component.WithName("echo"), component.WithNameFunc(strings.ToLower))
	app.Start()
}

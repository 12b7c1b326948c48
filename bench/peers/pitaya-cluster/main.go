// Pitaya v3, a frontend of type "connector" or a backend of type "bench" on NATS and etcd, with the route that bench/cluster
// forwards: bench.echo.echo.
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
	"github.com/topfreegames/pitaya/v3/pkg/logger"
	logruswrapper "github.com/topfreegames/pitaya/v3/pkg/logger/logrus"
)

type message struct {
	I string `json:"i"`
	P string `json:"p"`
}

// Echo has the handler.
type Echo struct {
	component.Base
}

// Echo answers with what it got.
func (e *Echo) Echo(ctx context.Context, m *message) (*message, error) {
	return m, nil
}

func main() {
	nats := flag.String("nats", "nats://localhost:4222", "NATS")
	etcd := flag.String("etcd", "localhost:2379", "etcd")
	role := flag.String("role", "back", "front or back")
	port := flag.Int("port", 0, "front: port on 127.0.0.1")
	flag.Parse()

	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	logger.SetLogger(logruswrapper.NewWithLogger(log))

	conf := config.NewDefaultPitayaConfig()
	conf.Heartbeat.Interval = 60 * time.Second
	conf.Handler.Messages.Compression = false
	conf.Cluster.RPC.Client.Nats.Connect = *nats
	conf.Cluster.RPC.Server.Nats.Connect = *nats
	conf.Cluster.SD.Etcd.Endpoints = []string{*etcd}
	front := *role == "front"
	serverType := "bench"
	if front {
		serverType = "connector"
	}
	builder := pitaya.NewDefaultBuilder(front, serverType, pitaya.Cluster, map[string]string{}, *conf)
	if front {
		builder.AddAcceptor(acceptor.NewTCPAcceptor(fmt.Sprintf("127.0.0.1:%d", *port)))
	}
	app := builder.Build()
	defer app.Shutdown()
	if !front {
		app.Register(&Echo{}, component.WithName("echo"), component.WithNameFunc(strings.ToLower))
	}
	go func() {
		for !app.IsRunning() {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("ready")
	}()
	app.Start()
}

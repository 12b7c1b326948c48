// Pitaya v3, unmodified, as frontend, as backend or as client: what the tests in crates/shaddock-cli/tests/cluster run beside
// shaddock. A server prints "ready" when it runs; the client is in client.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	pitaya "github.com/topfreegames/pitaya/v3/pkg"
	"github.com/topfreegames/pitaya/v3/pkg/acceptor"
	"github.com/topfreegames/pitaya/v3/pkg/component"
	"github.com/topfreegames/pitaya/v3/pkg/config"
	"github.com/topfreegames/pitaya/v3/pkg/constants"
	pcontext "github.com/topfreegames/pitaya/v3/pkg/context"
	"github.com/topfreegames/pitaya/v3/pkg/groups"
	"github.com/topfreegames/pitaya/v3/pkg/logger"
	logruswrapper "github.com/topfreegames/pitaya/v3/pkg/logger/logrus"
	"github.com/topfreegames/pitaya/v3/pkg/protos"
)

type text struct {
	Text string `json:"text"`
}

type user struct {
	UID string `json:"uid"`
}

type toUser struct {
	UID      string `json:"uid"`
	Frontend string `json:"frontend"`
	Text     string `json:"text"`
}

type who struct {
	UID    string                 `json:"uid"`
	Data   map[string]interface{} `json:"data"`
	Server string                 `json:"server"`
}

type missing struct {
	Missing []string `json:"missing"`
}

type group struct {
	Name     string `json:"name"`
	Frontend string `json:"frontend"`
	Text     string `json:"text"`
}

type members struct {
	Members []string `json:"members"`
	Count   int      `json:"count"`
}

type pause struct {
	Millis int `json:"ms"`
}

type remoteCall struct {
	Route   string `json:"route"`
	Server  string `json:"server"`
	Text    string `json:"text"`
	Timeout string `json:"timeout"`
}

// Room is the component of both kinds of server.
type Room struct {
	component.Base
	app pitaya.Pitaya
	// What notifies said.
	heard chan string
}

// Echo answers with what it got.
func (r *Room) Echo(ctx context.Context, t *text) (*text, error) {
	return t, nil
}

// Fail answers with an error that has everything an error can have.
func (r *Room) Fail(ctx context.Context, t *text) (*text, error) {
	return nil, pitaya.Error(fmt.Errorf("no %s", t.Text), "ROOM-7", map[string]string{"what": t.Text})
}

// Say is a notify.
func (r *Room) Say(ctx context.Context, t *text) {
	r.heard <- t.Text
}

// Heard answers with what the oldest notify said.
func (r *Room) Heard(ctx context.Context) (*text, error) {
	select {
	case said := <-r.heard:
		return &text{Text: said}, nil
	case <-time.After(3 * time.Second):
		return nil, pitaya.Error(fmt.Errorf("nothing was heard"), "ROOM-8")
	}
}

// Bind binds the session, from wherever it is.
func (r *Room) Bind(ctx context.Context, u *user) (*who, error) {
	if err := r.app.GetSessionFromCtx(ctx).Bind(ctx, u.UID); err != nil {
		return nil, err
	}
	return r.Who(ctx)
}

// Who answers with the session as it is seen here.
func (r *Room) Who(ctx context.Context) (*who, error) {
	s := r.app.GetSessionFromCtx(ctx)
	return &who{UID: s.UID(), Data: s.GetData(), Server: r.app.GetServerID()}, nil
}

// Remember writes to the session's data and pushes it to the frontend.
func (r *Room) Remember(ctx context.Context, data *map[string]interface{}) (*who, error) {
	s := r.app.GetSessionFromCtx(ctx)
	for key, value := range *data {
		if err := s.Set(key, value); err != nil {
			return nil, err
		}
	}
	if err := s.PushToFront(ctx); err != nil {
		return nil, err
	}
	return r.Who(ctx)
}

// Push pushes to the session that asks.
func (r *Room) Push(ctx context.Context, t *text) (*text, error) {
	if err := r.app.GetSessionFromCtx(ctx).Push("onText", t); err != nil {
		return nil, err
	}
	return t, nil
}

// Tell pushes to a user.
func (r *Room) Tell(ctx context.Context, to *toUser) (*missing, error) {
	lost, err := r.app.SendPushToUsers("onText", &text{Text: to.Text}, []string{to.UID}, to.Frontend)
	return &missing{Missing: lost}, ignoreEmpty(lost, err)
}

// Kick kicks a user.
func (r *Room) Kick(ctx context.Context, to *toUser) (*missing, error) {
	lost, err := r.app.SendKickToUsers([]string{to.UID}, to.Frontend)
	return &missing{Missing: lost}, ignoreEmpty(lost, err)
}

// KickMe kicks the session that asks.
func (r *Room) KickMe(ctx context.Context) (*text, error) {
	if err := r.app.GetSessionFromCtx(ctx).Kick(ctx); err != nil {
		return nil, err
	}
	return &text{Text: "kicked"}, nil
}

// Slow answers after a while.
func (r *Room) Slow(ctx context.Context, p *pause) (*text, error) {
	time.Sleep(time.Duration(p.Millis) * time.Millisecond)
	return &text{Text: r.app.GetServerID()}, nil
}

// Call calls a remote of another server; its error is the answer's.
func (r *Room) Call(ctx context.Context, c *remoteCall) (*text, error) {
	if c.Timeout != "" {
		ctx = pcontext.AddToPropagateCtx(ctx, constants.RequestTimeout, c.Timeout)
	}
	reply := &protos.KickMsg{}
	argument := &protos.KickMsg{UserId: c.Text}
	var err error
	if c.Server != "" {
		err = r.app.RPCTo(ctx, c.Server, c.Route, reply, argument)
	} else {
		err = r.app.RPC(ctx, c.Route, reply, argument)
	}
	if err != nil {
		return nil, err
	}
	return &text{Text: reply.UserId}, nil
}

// Join makes the user a member of a group, and the group if there is none.
func (r *Room) Join(ctx context.Context, g *group) (*members, error) {
	if err := r.app.GroupCreate(ctx, g.Name); err != nil && err != constants.ErrGroupAlreadyExists {
		return nil, err
	}
	if err := r.app.GroupAddMember(ctx, g.Name, r.app.GetSessionFromCtx(ctx).UID()); err != nil {
		return nil, err
	}
	return r.Members(ctx, g)
}

// Leave ends the user's membership of a group.
func (r *Room) Leave(ctx context.Context, g *group) (*members, error) {
	if err := r.app.GroupRemoveMember(ctx, g.Name, r.app.GetSessionFromCtx(ctx).UID()); err != nil {
		return nil, err
	}
	return r.Members(ctx, g)
}

// Members answers with the members of a group.
func (r *Room) Members(ctx context.Context, g *group) (*members, error) {
	list, err := r.app.GroupMembers(ctx, g.Name)
	if err != nil {
		return nil, err
	}
	count, err := r.app.GroupCountMembers(ctx, g.Name)
	return &members{Members: list, Count: count}, err
}

// Broadcast pushes to the members of a group.
func (r *Room) Broadcast(ctx context.Context, g *group) (*text, error) {
	message := &text{Text: g.Text}
	return message, r.app.GroupBroadcast(ctx, g.Frontend, g.Name, "onText", message)
}

// Remotes are what other servers call. The messages are any that Pitaya itself has.
type Remotes struct {
	component.Base
}

// Shout answers in capitals.
func (*Remotes) Shout(ctx context.Context, m *protos.KickMsg) (*protos.KickMsg, error) {
	if m.UserId == "" {
		return nil, pitaya.Error(fmt.Errorf("nothing to shout"), "ROOM-9")
	}
	return &protos.KickMsg{UserId: strings.ToUpper(m.UserId)}, nil
}

// Fail answers with an error that has everything an error can have.
func (*Remotes) Fail(ctx context.Context, m *protos.KickMsg) (*protos.KickMsg, error) {
	return nil, pitaya.Error(fmt.Errorf("no %s", m.UserId), "ROOM-7", map[string]string{"what": m.UserId, "empty": ""})
}

// Never answers when nobody waits any more.
func (*Remotes) Never(ctx context.Context, m *protos.KickMsg) (*protos.KickMsg, error) {
	time.Sleep(3 * time.Second)
	return m, nil
}

// Who was missing is in the answer.
func ignoreEmpty(lost []string, err error) error {
	if len(lost) > 0 {
		return nil
	}
	return err
}

func groupService(conf *config.PitayaConfig, etcd bool) (groups.GroupService, error) {
	if !etcd {
		return groups.NewMemoryGroupService(conf.Groups.Memory), nil
	}
	return groups.NewEtcdGroupService(conf.Groups.Etcd, nil)
}

func main() {
	port := flag.Int("port", 0, "frontend: port on 127.0.0.1")
	serverType := flag.String("type", "room", "server type")
	frontend := flag.Bool("frontend", false, "frontend")
	nats := flag.String("nats", "nats://localhost:4222", "NATS")
	etcd := flag.String("etcd", "localhost:2379", "etcd")
	etcdGroups := flag.Bool("etcd-groups", false, "groups at etcd, not in memory")
	ttl := flag.Duration("ttl", time.Minute, "of the lease at etcd")
	compress := flag.Bool("compress", true, "frontend: compress what clients get")
	address := flag.String("client", "", "be a client of the frontend at this address")
	flag.Parse()

	log := logrus.New()
	log.SetOutput(os.Stderr)
	log.SetLevel(logrus.WarnLevel)
	logger.SetLogger(logruswrapper.NewWithLogger(log))
	if *address != "" {
		runClient(*address)
		return
	}

	conf := config.NewDefaultPitayaConfig()
	conf.Cluster.RPC.Client.Nats.Connect = *nats
	conf.Cluster.RPC.Server.Nats.Connect = *nats
	conf.Cluster.SD.Etcd.Endpoints = []string{*etcd}
	conf.Cluster.SD.Etcd.Heartbeat.TTL = *ttl
	conf.Groups.Etcd.Endpoints = []string{*etcd}
	conf.Handler.Messages.Compression = *compress
	builder := pitaya.NewDefaultBuilder(*frontend, *serverType, pitaya.Cluster, map[string]string{}, *conf)
	if *frontend {
		builder.AddAcceptor(acceptor.NewTCPAcceptor(fmt.Sprintf("127.0.0.1:%d", *port)))
	}
	service, err := groupService(conf, *etcdGroups)
	if err != nil {
		log.Fatal(err)
	}
	builder.Groups = service
	app := builder.Build()
	defer app.Shutdown()

	room := &Room{app: app, heard: make(chan string, 16)}
	app.Register(room, component.WithName("room"), component.WithNameFunc(strings.ToLower))
	app.RegisterRemote(&Remotes{}, component.WithName("room"), component.WithNameFunc(strings.ToLower))
	go func() {
		for !app.IsRunning() {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("ready", app.GetServerID())
	}()
	app.Start()
}

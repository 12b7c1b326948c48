// The three routes of the bench: bench.echo.echo, bench.echo.bind, bench.echo.push.
'use strict';

exports.default = (app) => new Handler(app);

class Handler {
  constructor(app) {
    this.app = app;
  }

  async echo(msg) {
    return { i: msg.i, p: msg.p };
  }

  async bind(msg, session) {
    await session.abind(msg.uid);
    return { code: 200 };
  }

  async push(msg) {
    const body = { i: msg.i, p: msg.p };
    await this.app.get('channelService').abroadcast('bench', 'onPush', body, { binded: true });
    return { code: 200 };
  }
}

// The three routes of the bench: bench.echo.echo, bench.echo.bind, bench.echo.push.
'use strict';

module.exports = (app) => new Handler(app);

// A plain constructor: Pomelo finds only enumerable methods.
function Handler(app) {
  this.app = app;
}

// Names its members: Pomelo adds `__route__` to what it hands over.
Handler.prototype.echo = function (msg, session, next) {
  next(null, { i: msg.i, p: msg.p });
};

Handler.prototype.bind = function (msg, session, next) {
  session.bind(msg.uid, (error) => next(error, { code: 200 }));
};

Handler.prototype.push = function (msg, session, next) {
  const body = { i: msg.i, p: msg.p };
  this.app.get('channelService').broadcast('bench', 'onPush', body, { binded: true }, (error) => {
    next(error, { code: 200 });
  });
};

// Pomelo as its template sets it up, less dictionary and protobuf: the load tester sends JSON and route names to everybody.
'use strict';

const net = require('node:net');

const pomelo = require('pomelo');

// Pomelo 2.2.7 passes `{ binary: true }` where Node.js 14 and later want the name of an encoding, and throw. Its code stays as
// published; this is the one thing that must be put right around it.
const write = net.Socket.prototype.write;
net.Socket.prototype.write = function (data, encoding, callback) {
  return write.call(this, data, typeof encoding === 'object' ? undefined : encoding, callback);
};

const app = pomelo.createApp();
app.set('name', 'shaddock-bench-pomelo');
app.configure('production', 'bench', () => {
  app.set('connectorConfig', {
    connector: pomelo.connectors.hybridconnector,
    heartbeat: 60,
  });
});
app.start();

// Pinus as its template sets it up, less dictionary and protobuf: the load tester sends JSON and route names to everybody.
'use strict';

require('reflect-metadata');
const { pinus } = require('pinus');

const app = pinus.createApp();
app.set('name', 'shaddock-bench-pinus');
app.configure('production', 'bench', () => {
  app.set('connectorConfig', {
    connector: pinus.connectors.hybridconnector,
    heartbeat: 60,
  });
});
app.start();

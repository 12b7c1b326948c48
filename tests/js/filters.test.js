// The order of filters, from Pomelo itself: `tests/vectors/filters.json` is what its own filter service does. The framework's tests are held to
// the same file.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";

const require = createRequire(import.meta.url);
const FilterService = require("pomelo/lib/common/service/filterService.js");
const { cases } = JSON.parse(readFileSync(new URL("../vectors/filters.json", import.meta.url)));

/** As `filter` of Pomelo's application: an object with both methods is registered for both. */
const register = (service, filter) => {
  service.before(filter);
  service.after(filter);
};

for (const { name, filters, refuses, waits, order } of cases) {
  test(`filters run in Pomelo's order: ${name}`, async () => {
    const ran = [];
    const service = new FilterService();
    for (const filter of filters) {
      const decide = (next) => next(filter === refuses ? new Error("refused") : null);
      register(service, {
        before(_msg, _session, next) {
          ran.push(`${filter} before`);
          if (filter === waits) setImmediate(decide, next);
          else decide(next);
        },
        after(error, _msg, _session, _resp, next) {
          ran.push(`${filter} after`);
          next(error);
        },
      });
    }
    const refused = await new Promise((done) => service.beforeFilter({}, {}, done));
    if (!refused) ran.push("handler");
    // As Pomelo's server does it: after-filters run in any case.
    await new Promise((done) => service.afterFilter(refused, {}, {}, {}, done));
    assert.deepEqual(ran, order);
  });
}

// The examples in deploy/: files that are read by the programs they are for, settings that exist, times that fit together.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { parseAllDocuments } from "yaml";
import { binary, startDemo } from "./demo.js";

const deploy = new URL("../../deploy/", import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), "shaddock-deploy-"));
after(() => rmSync(scratch, { recursive: true }));

const read = (path) => readFileSync(join(deploy, path), "utf8");

function yaml(path) {
  return parseAllDocuments(read(path), { merge: true }).map((document) => {
    assert.deepEqual([document.errors, document.warnings], [[], []], path);
    return document.toJS();
  });
}

/** What is in force with this file: `section.key` to text. Fails as a server would. */
function effective(text, env = {}) {
  const file = join(scratch, "config.toml");
  writeFileSync(file, text);
  const run = spawnSync(binary, ["config", "--config", file], { env: { ...env, PATH: process.env.PATH }, encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  const values = new Map();
  let section;
  for (const line of run.stdout.split("\n")) {
    section = line.match(/^\[(\w+)\]/)?.[1] ?? section;
    const [, key, value] = line.match(/^(\w+) = ("[^"]*"|\S+)/) ?? [];
    if (key) values.set(`${section}.${key}`, value.replaceAll('"', ""));
  }
  return values;
}

/** Seconds of `45s`, `1m30s`, `500ms`. */
function seconds(text) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600 };
  return [...text.matchAll(/(\d+)(ms|s|m|h)/g)].reduce((sum, [, n, unit]) => sum + n * units[unit], 0);
}

const port = (values, key) => Number(values.get(key).split(":").at(-1));

test("compose: files are mounted where they are read, and there is time to drain", () => {
  const [{ services }] = yaml("compose/compose.yaml");
  assert.deepEqual(Object.keys(services), ["nats", "etcd", "frontend-1", "frontend-2", "hall"]);
  for (const [name, service] of Object.entries(services)) {
    if (!service.build) continue;
    const [from, to] = service.volumes[0].split(":");
    assert.equal(service.environment.SHADDOCK_CONFIG, to, name);
    const values = effective(read(join("compose", from)), service.environment.extra);
    assert.ok(seconds(service.stop_grace_period) > seconds(values.get("drain.deadline")), name);
    assert.equal(values.get("cluster.mode"), "nats");
    assert.ok(values.get("cluster.nats_urls").includes("nats:4222"));
    assert.ok(read("Dockerfile").includes(` AS ${service.build.target}\n`));
    if (service.command) assert.deepEqual(service.command, ["serve", "--config", to]);
    for (const mapping of service.ports ?? []) assert.equal(Number(mapping.split(":")[1]), port(values, "listen.address"));
  }
});

test("kubernetes: everything that is named exists, probes ask the right port, and there is time to drain", () => {
  const files = readdirSync(join(deploy, "kubernetes")).filter((file) => file.endsWith(".yaml"));
  const objects = files.flatMap((file) => yaml(join("kubernetes", file)));
  const find = (kind, name) => {
    const found = objects.find((object) => object.kind === kind && object.metadata.name === name);
    assert.ok(found, `${kind} ${name}`);
    return found;
  };
  const labels = (object) => object.spec.template.metadata.labels;
  const workloads = objects.filter((object) => object.spec?.template);
  for (const workload of workloads) {
    assert.deepEqual(workload.spec.selector.matchLabels, labels(workload));
    if (workload.kind === "StatefulSet") find("Service", workload.spec.serviceName);
  }
  for (const { kind, spec } of objects.filter((object) => ["Service", "PodDisruptionBudget"].includes(object.kind))) {
    const selected = kind === "Service" ? spec.selector : spec.selector.matchLabels;
    const chosen = workloads.find((workload) => labels(workload).app === selected.app);
    assert.ok(chosen, `${kind} selects ${selected.app}`);
    const names = chosen.spec.template.spec.containers[0].ports.map((one) => one.name);
    for (const one of spec.ports ?? []) assert.ok(names.includes(one.targetPort));
  }
  const servers = workloads.filter((workload) => labels(workload).app.startsWith("shaddock-"));
  assert.equal(servers.length, 2);
  for (const { spec, metadata } of servers) {
    const pod = spec.template.spec;
    const [container] = pod.containers;
    const [file, text] = Object.entries(find("ConfigMap", pod.volumes[0].configMap.name).data)[0];
    const env = {};
    for (const { name, value, valueFrom } of container.env) {
      const secret = valueFrom?.secretKeyRef;
      env[name] = value ?? (secret ? find("Secret", secret.name).stringData[secret.key] : `${metadata.name}-0`);
    }
    assert.equal(env.SHADDOCK_CONFIG, `${container.volumeMounts[0].mountPath}/${file}`);
    delete env.SHADDOCK_CONFIG;
    const values = effective(text, env);
    const ports = Object.fromEntries(container.ports.map((one) => [one.name, one.containerPort]));
    assert.equal(ports.admin, port(values, "admin.address"));
    if (ports.client) assert.equal(ports.client, port(values, "listen.address"));
    assert.deepEqual(container.livenessProbe.httpGet, { path: "/healthz", port: "admin" });
    assert.deepEqual(container.readinessProbe.httpGet, { path: "/readyz", port: "admin" });
    assert.ok(pod.terminationGracePeriodSeconds > seconds(values.get("drain.deadline")));
    if (ports.client) {
      const { periodSeconds, failureThreshold } = container.readinessProbe;
      assert.ok(seconds(values.get("drain.delay")) > periodSeconds * failureThreshold, "seen before doors close");
    }
  }
});

test("systemd: the unit is read without complaint, and there is time to drain", (t) => {
  const unit = read("systemd/shaddock@.service");
  const values = effective(read("systemd/connector-1.toml"));
  assert.ok(seconds(unit.match(/^TimeoutStopSec=(.*)$/m)[1]) > seconds(values.get("drain.deadline")));
  assert.match(unit, /^KillSignal=SIGTERM$/m);
  if (spawnSync("systemd-analyze", ["--version"]).error) {
    t.diagnostic("systemd-analyze is not installed");
    return;
  }
  // It looks whether the program is there.
  const file = join(scratch, "shaddock@.service");
  writeFileSync(file, unit.replaceAll("/usr/local/bin/shaddock", "/bin/true"));
  const verify = spawnSync("systemd-analyze", ["verify", "--man=no", join(scratch, "shaddock@connector-1.service")], { encoding: "utf8" });
  const complaints = verify.stderr.split("\n").filter((line) => line.includes("shaddock"));
  assert.deepEqual([verify.status, complaints], [0, []], verify.stderr);
});

/** Names of metrics in a text. `_bucket`, `_count` and `_sum` are of the same histogram. */
const metrics = (text) =>
  [...text.matchAll(/\b(?:shaddock|process)_[a-z_]+/g)].map(([name]) => name.replace(/_(bucket|count|sum)$/, ""));

/** Every metric that the table of the guide has, as Prometheus names it. */
function known() {
  const guide = readFileSync(new URL("../../docs/operations.md", import.meta.url), "utf8");
  const table = guide.slice(guide.indexOf("## Metrics"), guide.indexOf("Worth an alarm"));
  const names = [...table.matchAll(/`([a-z_]+)(?:\{[a-z_,]+\})?`/g)].map(([, name]) => name);
  return new Set(names.flatMap((name) => (name.startsWith("process_") ? [name] : [`shaddock_${name}`])));
}

test("prometheus: rules are read and fire when they should, quantiles are numbers", () => {
  const promtool = (...args) => {
    const run = spawnSync("promtool", args, { cwd: join(deploy, "prometheus"), encoding: "utf8" });
    assert.equal(run.error, undefined, "promtool is in Debian's package prometheus");
    assert.equal(run.status, 0, run.stdout + run.stderr);
  };
  promtool("check", "config", "prometheus.yml");
  promtool("check", "rules", "alerts.yml");
  promtool("test", "rules", "alerts.test.yml");
});

test("prometheus: promtool has nothing against the metrics of a server", { timeout: 180_000 }, async () => {
  const demo = await startDemo();
  const answer = await fetch(`${demo.admin}/metrics`, { headers: { accept: "text/plain" } });
  assert.match(answer.headers.get("content-type"), /^text\/plain; version=0\.0\.4/);
  const input = await answer.text();
  assert.equal(await demo.stop(), 0);
  assert.match(input, /^# TYPE shaddock_requests_total counter$/m);
  const run = spawnSync("promtool", ["check", "metrics"], { input, encoding: "utf8" });
  assert.deepEqual([run.status, run.stdout, run.stderr], [0, "", ""]);
});

test("prometheus and grafana: every metric that is asked for exists", () => {
  const there = known();
  assert.ok(there.size > 40, `${there.size}`);
  const dashboard = JSON.parse(read("grafana/shaddock.json"));
  const asked = dashboard.panels.flatMap((panel) => panel.targets.map((target) => target.expr)).join("\n");
  for (const [file, text] of [
    ["prometheus/alerts.yml", read("prometheus/alerts.yml")],
    ["grafana/shaddock.json", asked],
  ]) {
    const names = metrics(text);
    assert.ok(names.length > 10, file);
    assert.deepEqual(names.filter((name) => !there.has(name)), [], file);
  }
});

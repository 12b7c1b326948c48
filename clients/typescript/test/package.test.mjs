// What is published: size, both module systems, declarations; and the file that the demo embeds.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, mkdtempSync, rmSync, writeFileSync, mkdirSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { browser, bundle } from "../build.mjs";
import { build } from "esbuild";

const here = fileURLToPath(new URL("..", import.meta.url));

test("under 20 KiB minified, 8 KiB compressed", async (t) => {
  const { outputFiles } = await build({ entryPoints: [`${here}dist/index.js`], bundle: true, minify: true, format: "esm", target: "es2020", write: false });
  const bytes = outputFiles[0].contents;
  const [gzip, brotli] = [gzipSync(bytes, { level: 9 }).length, brotliCompressSync(bytes).length];
  t.diagnostic(`${bytes.length} bytes minified, ${gzip} with gzip, ${brotli} with brotli`);
  assert.ok(bytes.length < 20 * 1024, `${bytes.length}`);
  assert.ok(gzip < 8 * 1024, `${gzip}`);
  assert.ok(brotli < 8 * 1024, `${brotli}`);
});

test("the demo's copy is a fresh build", async () => {
  const { outputFiles } = await browser(null, false);
  const fresh = Buffer.from(outputFiles[0].contents).toString();
  assert.ok(readFileSync(bundle, "utf8") === fresh, "run `npm run build` in clients/typescript and commit crates/shaddock-cli/src/demo/web/shaddock.js");
});

test("ESM, CommonJS, and types for both", async () => {
  const require = createRequire(import.meta.url);
  for (const [name, wanted] of [["index", ["Client", "ClientError", "connect", "webSocket"]], ["node-tcp", ["nodeTcp"]]]) {
    assert.deepEqual(Object.keys(await import(`../dist/${name}.js`)).sort(), wanted);
    assert.deepEqual(Object.keys(require(`../dist/${name}.cjs`)).sort(), wanted);
  }
  const folder = mkdtempSync(`${tmpdir()}/shaddock-user-`);
  try {
    mkdirSync(`${folder}/node_modules`);
    symlinkSync(here, `${folder}/node_modules/shaddock-client`);
    symlinkSync(`${here}node_modules/@types`, `${folder}/node_modules/@types`);
    const text = `import { connect, type Client } from "shaddock-client"; import { nodeTcp } from "shaddock-client/node-tcp";
      export const c: Promise<Client> = connect("tcp://x:1", { transport: nodeTcp() });`;
    for (const file of ["user.mts", "user.cts"]) writeFileSync(`${folder}/${file}`, text);
    const flags = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2020", "--lib", "es2020,dom", "--types", "node", "user.mts", "user.cts"];
    execFileSync(process.execPath, [`${here}node_modules/typescript/bin/tsc`, ...flags], { cwd: folder, encoding: "utf8" });
  } catch (error) {
    assert.fail(error.stdout || error.message);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

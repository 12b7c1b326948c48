// The modules of src/, built for the tests alone: the package exports only its public face.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { pathToFileURL, fileURLToPath } from "node:url";
import { readFileSync, rmSync } from "node:fs";
import { build } from "esbuild";

const folder = mkdtempSync(`${tmpdir()}/shaddock-client-`);
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const src = fileURLToPath(new URL("../src/", import.meta.url));
await build({
  stdin: {
    contents: ["bytes", "wire", "protobuf", "inflate", "resume", "emitter", "client", "transport", "types"].map((name) => `export * from "./${name}.js";`).join("\n"),
    resolveDir: src,
    loader: "ts",
  },
  bundle: true,
  format: "esm",
  outfile: `${folder}/parts.mjs`,
  logLevel: "warning",
});
export const parts = await import(pathToFileURL(`${folder}/parts.mjs`).href);
export const vectors = (name) => JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url)));
export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));

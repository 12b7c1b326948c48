// Builds dist/: ESM and CommonJS with declarations, and the single file of the demo page.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
/** What the demo page loads: committed, and compared with a fresh build by a test. */
export const bundle = `${here}../../crates/shaddock-cli/src/demo/web/shaddock.js`;

const common = { bundle: true, target: "es2020", absWorkingDir: here, charset: "utf8", logLevel: "warning", mangleProps: /^_[a-z]/ };

export const browser = (outfile, minify) =>
  build({
    ...common,
    entryPoints: ["src/index.ts"],
    format: "esm",
    outfile: outfile ?? undefined,
    minify,
    write: Boolean(outfile),
    legalComments: "none",
    banner: { js: "// Built from clients/typescript by `npm run build`; do not edit.\n" },
  });

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  rmSync(`${here}dist`, { recursive: true, force: true });
  mkdirSync(`${here}dist`);
  for (const name of ["index", "node-tcp"]) {
    for (const [format, extension] of [["esm", "js"], ["cjs", "cjs"]]) {
      await build({ ...common, entryPoints: [`src/${name}.ts`], format, platform: "neutral", external: ["node:*"], outfile: `dist/${name}.${extension}` });
    }
  }
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "--emitDeclarationOnly", "--declaration", "--outDir", "dist", "--rootDir", "src", "--noEmit", "false", "-p", "tsconfig.build.json"], { cwd: here, stdio: "inherit" });
  // CommonJS wants declarations of its own name.
  for (const file of readdirSync(`${here}dist`)) if (file.endsWith(".d.ts")) {
    const text = readFileSync(`${here}dist/${file}`, "utf8").replaceAll(/(from "\.\/[\w-]+)\.js"/g, '$1.cjs"');
    writeFileSync(`${here}dist/${file.replace(/\.d\.ts$/, ".d.cts")}`, text);
  }
  await browser(bundle, false);
}

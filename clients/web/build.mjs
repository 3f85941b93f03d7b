// Builds the web client into dist/, whose files are checked in and embedded in the server's binary.
//
//   node build.mjs            writes dist/
//   node build.mjs --check    fails when dist/ is not what it would write

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

import { build } from "esbuild";

const at = (path) => new URL(path, import.meta.url);

const { outputFiles } = await build({
  absWorkingDir: at(".").pathname,
  entryPoints: { app: "src/main.ts", style: "src/style.css" },
  bundle: true, write: false, outdir: "dist", format: "esm", target: "es2022", minify: true, charset: "utf8",
  legalComments: "none",
});
const files = new Map(outputFiles.map(({ path, text }) => [path.split("/").at(-1), text]));
files.set("index.html", readFileSync(at("src/index.html"), "utf8"));

let stale = false;
if (!process.argv.includes("--check")) mkdirSync(at("dist"), { recursive: true });
for (const [name, text] of files) {
  const path = at(`dist/${name}`);
  if (!process.argv.includes("--check")) {
    writeFileSync(path, text);
    console.log(`dist/${name}: ${text.length} characters`);
  } else if (readFileSync(path, "utf8") !== text) {
    stale = true;
    console.error(`clients/web/dist/${name} is stale: run \`npm run build -w everline-web\` in clients/`);
  }
}
process.exit(stale ? 1 : 0);

/**
 * Writes `dist/`, what the npm package holds beside the bootstrap: JavaScript with types of all that the commands need, in
 * the folders of the sources, the built Worker and static assets. `npm pack` runs it (prepack). Not here: the embedded base, which is a
 * package of its own (its folder in gpu-backend/models).
 */
import { spawnSync } from "node:child_process";
import { cp, glob, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { buildLocalWorker } from "../build-edge.ts";
import { buildSite } from "../site/build.ts";
import { stagePages } from "../stage-pages.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const dist = path.join(root, "dist");

/** Files that are read while a command runs, and are no TypeScript. */
const assets = [
  "wrangler.toml",
  "edge/public",
  "gpu-backend/models/calibration.txt",
  "gpu-backend/runtime/onnx.proto",
  "gpu-backend/training/corpora/lock.json",
  "test/bench/llama/package.json",
  "test/bench/llama/package-lock.json",
];

async function build(): Promise<void> {
  await rm(dist, { recursive: true, force: true });
  compile();
  await pointThreadsAtJavaScript();
  await stagePages();
  await buildSite();
  for (const asset of assets) await cp(path.join(root, asset), path.join(dist, asset), { recursive: true });
  // What development has staged there: a start takes the base's own.
  await rm(path.join(dist, "edge/public/artifacts"), { recursive: true, force: true });
  await buildLocalWorker(path.join(dist, "edge/built"));
  const { name, version, type } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8"));
  await writeFile(path.join(dist, "package.json"), `${JSON.stringify({ name, version, type }, null, 2)}\n`);
}

function compile(): void {
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  // npm reads our stdout with `npm pack --json`.
  const { status } = spawnSync(process.execPath, [tsc, "-p", path.join(import.meta.dirname, "tsconfig.json")], {
    stdio: ["ignore", 2, 2],
  });
  if (status !== 0) throw new Error(`the compiler ended with ${status}`);
}

/** The compiler rewrites imports, not the URLs of files that threads and processes run. */
async function pointThreadsAtJavaScript(): Promise<void> {
  for await (const name of glob("**/*.js", { cwd: dist })) {
    const file = path.join(dist, name);
    const text = await readFile(file, "utf8");
    const pointed = text.replace(
      /new URL\("([\w./-]+)\.ts", import\.meta\.url\)/g,
      'new URL("$1.js", import.meta.url)',
    );
    if (pointed !== text) await writeFile(file, pointed);
  }
}

await runCommand(
  createCommand("build", "Write dist/, what the npm package holds", ["chameleon build", "npm pack"]).action(build),
);

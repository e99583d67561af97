/**
 * Writes `dist/`, what the npm package holds beside the bootstrap: JavaScript with types of all that the commands need, in
 * the folders of the sources, the built Worker, static assets and the embedded model. `npm pack` runs it (prepack).
 */
import { spawnSync } from "node:child_process";
import { cp, glob, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { buildSite } from "../site/build.ts";
import { stageArtifacts } from "../stage-artifacts.ts";
import { stageDocs } from "../stage-docs.ts";
import { stagePage } from "../stage-page.ts";
import { bundleWorker } from "../workerd/bundle.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const dist = path.join(root, "dist");

/** Files that are read while a command runs, and are no TypeScript. */
const assets = [
  "edge/public",
  "gpu-backend/models/chameleon-mini",
  "gpu-backend/runtime/onnx.proto",
  "gpu-backend/training/corpora/lock.json",
  "test/bench/llama/package.json",
  "test/bench/llama/package-lock.json",
];

async function build(): Promise<void> {
  await rm(dist, { recursive: true, force: true });
  compile();
  await pointThreadsAtJavaScript();
  await stageArtifacts();
  await stageDocs();
  await stagePage();
  await buildSite();
  for (const asset of assets) await cp(path.join(root, asset), path.join(dist, asset), { recursive: true });
  await buildWorker();
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

/** The Worker as a deployment uploads it, and a wrangler.toml that serves it as it is. */
async function buildWorker(): Promise<void> {
  const config = await readFile(path.join(root, "wrangler.toml"), "utf8");
  const built = path.join(dist, "edge/built");
  await mkdir(built, { recursive: true });
  await bundleWorker(path.join(root, "wrangler.toml"), "worker", built);
  await forgetBuilder(built);
  const main = 'main = "edge/worker.ts"';
  if (!config.includes(main)) throw new Error(`wrangler.toml does not say ${main}`);
  const served = config.replace(main, 'main = "edge/built/worker.js"\nno_bundle = true');
  await writeFile(path.join(dist, "wrangler.toml"), served);
}

/** Removes what wrangler writes about the machine and the time of a build: a source map with its folders, and a README.md. */
async function forgetBuilder(built: string): Promise<void> {
  for (const name of ["worker.js.map", "README.md"]) await rm(path.join(built, name));
  const worker = path.join(built, "worker.js");
  const text = await readFile(worker, "utf8");
  await writeFile(worker, text.replace(/^\/\/# sourceMappingURL=.*\n?/m, ""));
}

await runCommand(
  createCommand("build", "Write dist/, what the npm package holds", ["chameleon build", "npm pack"]).action(build),
);

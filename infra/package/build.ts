/**
 * Writes `dist/` of the npm package, for `npm pack`: commands compiled to JavaScript, the built Worker, static assets, ONNX Runtime. The
 * embedded model is a package of its own (gpu-backend/models/smollm2-135m).
 */
import { spawnSync } from "node:child_process";
import { cp, glob, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { buildLocalWorker } from "../build-edge.ts";
import { buildSite } from "../site/build.ts";
import { stagePages } from "../stage-pages.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const dist = path.join(root, "dist");

const assets = [
  "wrangler.toml",
  "edge/public",
  "gpu-backend/models/calibration.txt",
  "gpu-backend/runtime/onnx.proto",
  "gpu-backend/training/corpora/lock.json",
  "test/bench/llama/package.json",
  "test/bench/llama/package-lock.json",
];

/** Folder names in ONNX Runtime's package. */
const platforms = ["linux/x64", "linux/arm64", "darwin/arm64"];
const runtimeFolder = "onnxruntime-node";

async function build(): Promise<void> {
  await rm(dist, { recursive: true, force: true });
  compile();
  await pointImports();
  await copyRuntime();
  await stagePages();
  await buildSite();
  for (const asset of assets) await cp(path.join(root, asset), path.join(dist, asset), { recursive: true });
  // A start stages the artifacts of its own model.
  await rm(path.join(dist, "edge/public/artifacts"), { recursive: true, force: true });
  await buildLocalWorker(path.join(dist, "edge/built"));
  const { name, version, type, devDependencies } = await manifestOf(root);
  const { wrangler } = devDependencies as Record<string, string>;
  await writeManifest(dist, { name, version, type, devDependencies: { wrangler } });
}

/** Copies ONNX Runtime's package for `platforms`, without its install script, which would download CUDA. */
async function copyRuntime(): Promise<void> {
  const source = path.dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  const target = path.join(dist, runtimeFolder);
  for (const file of ["README.md", "dist", ...platforms.map((platform) => `bin/napi-v6/${platform}`)]) {
    // The library for macOS is there twice; the one with a version in its name is not loaded.
    const filter = (one: string) => !/\.d\.ts$|\.map$|libonnxruntime\.\d+\.\d+\.\d+\.dylib$/.test(one);
    await cp(path.join(source, file), path.join(target, file), { recursive: true, filter });
  }
  const { name, version, license, author, repository } = await manifestOf(source);
  await writeManifest(target, { name, version, license, author, repository });
}

async function manifestOf(folder: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
}

async function writeManifest(folder: string, manifest: Record<string, unknown>): Promise<void> {
  await writeFile(path.join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
}

function compile(): void {
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  // The compiler's output goes to stderr, because `npm pack --json` prints JSON on stdout.
  const { status } = spawnSync(process.execPath, [tsc, "-p", path.join(import.meta.dirname, "tsconfig.json")], {
    stdio: ["ignore", 2, 2],
  });
  if (status !== 0) throw new Error(`the compiler ended with ${status}`);
}

/** Repairs paths that the compiler leaves alone: URLs of scripts, and the import of ONNX Runtime. */
async function pointImports(): Promise<void> {
  for await (const name of glob("**/*.js", { cwd: dist })) {
    const file = path.join(dist, name);
    const text = await readFile(file, "utf8");
    const runtime = path.posix.relative(path.dirname(name), `${runtimeFolder}/dist/index.js`);
    const pointed = text
      .replace(/new URL\("([\w./-]+)\.ts", import\.meta\.url\)/g, 'new URL("$1.js", import.meta.url)')
      .replace('from "onnxruntime-node"', `from "${runtime}"`);
    if (pointed !== text) await writeFile(file, pointed);
  }
}

await runCommand(
  createCommand("build", "Write dist/, what the npm package holds", ["chameleon build", "npm pack"]).action(build),
);

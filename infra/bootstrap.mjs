#!/usr/bin/env node
/**
 * The `chameleon` command, on Node 20 or newer. In a checkout, where nothing need be installed, it installs what is missing
 * or stale and runs TypeScript; in an installed package it runs the JavaScript in `dist/`. Both go on in a child, on a Node
 * that is new enough. Not here: what a command does. Plain JavaScript with no dependency, because it runs before there is any.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import path from "node:path";
import { isatty } from "node:tty";
import { fileURLToPath } from "node:url";
import { commandsOf, usage } from "./commands.mjs";

const root = path.dirname(path.dirname(realpathSync(fileURLToPath(import.meta.url))));
const { version } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
/** A package has no lock: npm leaves it out. */
const isCheckout = existsSync(path.join(root, "package-lock.json"));

/** Starting Node: enough to run this file. */
const oldestNode = [20, 0];
/** Running Node: the first that strips types from .ts files without a flag, and has all that we call. */
const oldestRunningNode = [22, 18];
/** Commands that hold hidden states as Float16Array. */
const oldestTrainingNode = [24, 0];
const trainers = ["train", "eval", "eval:own", "paper"];

/** Commands that run a model in their own process get the allocator that a backend gives its engine (gpu-backend/config.ts). */
const allocator = { GLIBC_TUNABLES: "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576" };

/** ONNX Runtime would send its usage to its maker, and keep an id of the machine in the home folder. */
const noTelemetry = { ORT_DISABLE_TELEMETRY: "1" };

/** Where Node keeps TypeScript without its types: the compiler that removes them takes 30 MB of each process until it ends. */
const compileCache = { NODE_COMPILE_CACHE: path.join(root, "node_modules", ".cache", "compile") };

/** They run none themselves. */
const servers = ["start", "start edge", "start backend", "backend"];

const stopSignals = ["SIGINT", "SIGTERM", "SIGHUP"];

function isAtLeast(version, [major, minor]) {
  const [haveMajor, haveMinor] = version.replace("v", "").split(".").map(Number);
  return haveMajor > major || (haveMajor === major && haveMinor >= minor);
}

function fail(message, code = 1) {
  process.stderr.write(`chameleon: ${message}\n`);
  process.exit(code);
}

/** What decides the content of node_modules. Scripts and the like may change without a new install. */
function installHash() {
  const { dependencies, devDependencies, optionalDependencies, overrides } = JSON.parse(
    readFileSync(path.join(root, "package.json"), "utf8"),
  );
  return createHash("sha256")
    .update(JSON.stringify([dependencies, devDependencies, optionalDependencies, overrides]))
    .update(readFileSync(path.join(root, "package-lock.json")))
    .update(`${process.platform} ${process.arch}`)
    .digest("hex");
}

/**
 * Runs a command to its end. Returns its exit code, the signal that asked this process to stop meanwhile, if any, and
 * what came through the pipes of `options.stdio`. Signals are passed on, except that a terminal's Ctrl-C reaches the child
 * by itself: where stdin is a terminal, SIGINT is only outlived.
 */
function run(command, args, options) {
  return new Promise((resolve) => {
    const child = spawn(command, args, options);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk) => {
        output += chunk;
      });
    }
    let stoppedBy = null;
    const onSignal = (signal) => {
      stoppedBy = signal;
      if (signal !== "SIGINT" || !isatty(0)) child.kill(signal);
    };
    for (const signal of stopSignals) process.on(signal, onSignal);
    // Under npm our parent should outlive us. If it was killed outright, nobody is left to stop the child.
    const parent = process.ppid;
    const watch = process.env.npm_lifecycle_event
      ? setInterval(() => process.ppid === parent || child.kill("SIGTERM"), 500)
      : undefined;
    const finish = (code) => {
      clearInterval(watch);
      for (const signal of stopSignals) process.off(signal, onSignal);
      resolve({ code, output, stoppedBy });
    };
    child.on("error", (error) => {
      output += error.message;
      finish(127);
    });
    child.on("close", (code, signal) => finish(code ?? 128 + constants.signals[signal]));
  });
}

/** Installs unless the stamp in node_modules says that exactly this lock was installed to its end. */
async function install() {
  const stampFile = path.join(root, "node_modules", ".chameleon-install");
  const hash = installHash();
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === hash) return;

  process.stderr.write("installing packages (once; a minute or less)…\n");
  rmSync(stampFile, { force: true });
  // The npm that started us, if one did: it is the one that is known to work here.
  const npmScript = process.env.npm_execpath?.endsWith("npm-cli.js") ? [process.env.npm_execpath] : [];
  const npm = npmScript.length > 0 ? process.execPath : "npm";
  // --include=dev, because NODE_ENV=production would leave out what start and test need;
  // --prefer-offline is exact here, as the lock holds every package's hash;
  // without the short time-outs an offline machine waits a minute for the news.
  const args = [...npmScript, "ci", "--include=dev", "--include=optional", "--prefer-offline", "--loglevel=error"];
  // What we depend on ships its binaries inside its packages, and onnxruntime-node's script would download CUDA.
  args.push("--ignore-scripts");
  args.push("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000");
  const { code, output, stoppedBy } = await run(npm, args, {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    shell: npm === "npm" && process.platform === "win32",
  });
  if (stoppedBy) process.exit(128 + constants.signals[stoppedBy]);
  if (code !== 0) {
    const network =
      /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENOTCACHED)\b/;
    const cause = network.exec(output);
    if (cause) fail(`cannot install: the npm registry is out of reach (${cause[0]}). Connect once, then try again.`);
    process.stderr.write(output);
    fail(`cannot install: npm ci ended with ${code}.`);
  }
  writeFileSync(stampFile, hash);
}

/** The Node that is installed as a package, where it runs (Linux with glibc), else the one running this, if new enough. */
function pickNode(command) {
  const pinned = pinnedNode();
  if (pinned && spawnSync(pinned, ["--version"]).status === 0) return pinned;
  const oldest = trainers.includes(command) ? oldestTrainingNode : oldestRunningNode;
  if (isAtLeast(process.version, oldest)) return process.execPath;
  const way =
    process.platform === "linux" ? `; npm install --global node-linux-${process.arch}@24 adds one to use here` : "";
  return fail(`Node ${oldest.join(".")} or newer is needed; this is ${process.version}${way}.`);
}

/** A package has ONNX Runtime's libraries of some platforms. */
function assertPlatform() {
  const { platform, arch } = process;
  if (existsSync(path.join(root, "dist/onnxruntime-node/bin/napi-v6", platform, arch))) return;
  fail(
    `this package serves on Linux (x64, arm64) and macOS (arm64), not on ${platform} ${arch}; try a checkout there.`,
  );
}

function pinnedNode() {
  if (process.platform !== "linux") return null;
  try {
    // A checkout installs it; in a package, users of an older Node can.
    const manifest = createRequire(import.meta.url).resolve(`node-linux-${process.arch}/package.json`);
    return path.join(path.dirname(manifest), "bin", "node");
  } catch {
    return null;
  }
}

/** The file that runs a command: as it is written, or as it was compiled for the package. */
function entryFile(source) {
  return isCheckout ? path.join(root, source) : path.join(root, "dist", source.replace(/\.ts$/, ".js"));
}

async function runCommand(command, [, entry, ...first], rest) {
  if (isCheckout) await install();
  else assertPlatform();
  const node = pickNode(command);
  const directories = [path.dirname(node), path.join(root, "node_modules", ".bin"), process.env.PATH];
  const { code } = await run(node, [entryFile(entry), ...first, ...rest], {
    // The channel says nothing; that it closes tells the child that this process is gone, however it ended.
    stdio: ["inherit", "inherit", "inherit", "ipc"],
    env: {
      ...noTelemetry,
      ...(isCheckout && compileCache),
      ...(!servers.includes(command) && allocator),
      ...process.env,
      PATH: directories.join(path.delimiter),
    },
  });
  process.exit(code);
}

if (!isAtLeast(process.version, oldestNode)) {
  fail(`Node ${oldestNode[0]} or newer is needed; this is ${process.version}.`);
}
const commands = commandsOf(isCheckout);
const given = process.argv.slice(2);
const words = Object.hasOwn(commands, given.slice(0, 2).join(" ")) ? 2 : 1;
const [command, rest] = [given.slice(0, words).join(" "), given.slice(words)];
if (Object.hasOwn(commands, command)) {
  await runCommand(command, commands[command], rest);
} else if (command === "--help" || command === "-h") {
  process.stdout.write(usage(commands, version));
} else if (command === "--version" || command === "-V") {
  process.stdout.write(`${version}\n`);
} else {
  const what = command === "" ? "name a command" : `there is no command "${command}"`;
  fail(`${what}; \`chameleon --help\` lists them.`, 2);
}

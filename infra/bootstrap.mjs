#!/usr/bin/env node
/**
 * The `chameleon` command, on Node 20 or newer, without dependencies. In a checkout it installs missing or stale packages and runs
 * TypeScript; in an installed package it runs `dist/`. Commands run in a child process, on a Node that is new enough.
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
/** npm leaves package-lock.json out of packages, so only a checkout has this file. */
const isCheckout = existsSync(path.join(root, "package-lock.json"));

const oldestNode = [20, 0];
/** The oldest Node that strips the types of .ts files without a flag. */
const oldestRunningNode = [22, 18];
/** The oldest Node with Float16Array, which `trainers` need. */
const oldestTrainingNode = [24, 0];
const trainers = ["train", "eval", "eval:own", "paper"];

/** Allocator settings of commands that run a model themselves. gpu-backend/config.ts gives an engine the same settings. */
const allocator = { GLIBC_TUNABLES: "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576" };

/** Without this setting, ONNX Runtime reports its use to its maker, and stores an id in the home folder. */
const noTelemetry = { ORT_DISABLE_TELEMETRY: "1" };

/** Folder in which Node caches .ts files without types. Without the cache every process takes 30 MB more. */
const compileCache = { NODE_COMPILE_CACHE: path.join(root, "node_modules", ".cache", "compile") };

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
 * Returns exit code, output, and the signal that this process got meanwhile, or null. Passes signals on, except SIGINT, which a terminal
 * sends to the command, too.
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
    // npm passes signals on to this process. If npm is killed, this process gets another parent.
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

async function install() {
  const stampFile = path.join(root, "node_modules", ".chameleon-install");
  const hash = installHash();
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === hash) return;

  process.stderr.write("installing packages (once; a minute or less)…\n");
  rmSync(stampFile, { force: true });
  // The npm that started this process is known to work on this machine.
  const npmScript = process.env.npm_execpath?.endsWith("npm-cli.js") ? [process.env.npm_execpath] : [];
  const npm = npmScript.length > 0 ? process.execPath : "npm";
  // `--include=dev` holds even with NODE_ENV=production. The lock file's hashes make `--prefer-offline` safe.
  const args = [...npmScript, "ci", "--include=dev", "--include=optional", "--prefer-offline", "--loglevel=error"];
  // No package needs its install script, and that of onnxruntime-node would download CUDA.
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

/** Prefers the Node of the package node-linux-ARCH, if installed and able to run here, to this process's Node. */
function pickNode(command) {
  const pinned = pinnedNode();
  if (pinned && spawnSync(pinned, ["--version"]).status === 0) return pinned;
  const oldest = trainers.includes(command) ? oldestTrainingNode : oldestRunningNode;
  if (isAtLeast(process.version, oldest)) return process.execPath;
  const way =
    process.platform === "linux" ? `; npm install --global node-linux-${process.arch}@24 adds one to use here` : "";
  return fail(`Node ${oldest.join(".")} or newer is needed; this is ${process.version}${way}.`);
}

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
    // A checkout has this package; users of the npm package can install it.
    const manifest = createRequire(import.meta.url).resolve(`node-linux-${process.arch}/package.json`);
    return path.join(path.dirname(manifest), "bin", "node");
  } catch {
    return null;
  }
}

async function runCommand(command, [, entry, ...first], rest) {
  if (isCheckout) await install();
  else assertPlatform();
  const node = pickNode(command);
  const directories = [path.dirname(node), path.join(root, "node_modules", ".bin"), process.env.PATH];
  const file = isCheckout ? path.join(root, entry) : path.join(root, "dist", entry.replace(/\.ts$/, ".js"));
  const { code } = await run(node, [file, ...first, ...rest], {
    // The IPC channel closes when this process ends, even by SIGKILL, so that the child notices the end.
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

#!/usr/bin/env node
/**
 * The one way in: `node infra/bootstrap.mjs COMMAND [arguments]`, on Node ≥ 20 with nothing installed.
 * Installs what is missing or stale, picks a Node that runs TypeScript, and goes on in a child.
 * Not here: what a command does. Plain JavaScript with no dependency, because it runs before there is any.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(realpathSync(fileURLToPath(import.meta.url))));

/** command → [one line of help, entry file, its first arguments]; what follows the command is passed on. */
const commands = {
  start: ["serve edge and backend on this machine (--json, --help)", "infra/start.ts"],
  test: ["run the tests; arguments go to vitest (--project unit)", "infra/test.ts"],
  check: ["check style and types", "infra/check.ts"],
  backend: ["serve the backend alone", "gpu-backend/main.ts"],
  import: ["bring a GPT-2 from the Hugging Face hub or a folder (--help)", "gpu-backend/models/import/cli.ts"],
  train: ["train adapters on text (--help)", "gpu-backend/training/cli.ts", "train"],
  corpora: [
    "fetch the text that the embedded adapters are trained and measured on (FOLDER, --help)",
    "gpu-backend/training/corpus/cli.ts",
  ],
  bench: ["measure speed beside other engines (--help)", "test/bench/main.ts"],
  "bench:fault": ["harm a backend under 200 streams (--help)", "test/bench/fault/main.ts"],
  "bench:edge": ["measure what the edge costs, beside Portkey's gateway (--help)", "test/bench/edge/main.ts"],
  "bench:tenants": ["measure what a tenant's burst costs another (--help)", "test/bench/tenants/main.ts"],
  keys: ["make, list, revoke and rotate API keys, set tenants' limits (--help)", "infra/keys/cli.ts"],
  publish: ["publish artifacts, switch back, list (--help)", "infra/publish/cli.ts"],
  drift: ["compare live traffic with training, and say whether to train again (--help)", "infra/drift/cli.ts"],
  "deploy:check": ["check the Worker's size and start before a deployment", "infra/deploy-check.ts"],
  fuzz: ["send bad requests to a real edge and backend (--requests N, --seed N)", "test/fuzz/requests/main.ts"],
  "eval:instant": [
    "measure adapters made of examples, on known and unknown text (--help)",
    "test/bench/instant/main.ts",
  ],
  "eval:evidence": [
    "measure what the mixture gains on new text, beside the nearest adapter and controls (--help)",
    "test/bench/evidence/main.ts",
  ],
  eval: ["measure what artifacts gain, as they are shipped (--help)", "gpu-backend/training/figures/cli.ts", "eval"],
  figures: [
    "measure every quality figure of the documents anew, and write it into them (--help)",
    "gpu-backend/training/figures/cli.ts",
    "figures",
  ],
};

/** Starting Node: enough to run this file. */
const oldestNode = [20, 0];
/** Running Node: the first that strips types from .ts files without a flag. */
const oldestTypeScriptNode = [22, 18];

/**
 * A step reads every weight once. In huge pages that takes a seventh less time (2 cores of a Xeon, GPT-2 124M in int8); the
 * C library gives them where it is asked to at the start, and elsewhere the variable means nothing.
 */
const hugePages = { GLIBC_TUNABLES: "glibc.malloc.hugetlb=1" };

const stopSignals = ["SIGINT", "SIGTERM", "SIGHUP"];

function isAtLeast(version, [major, minor]) {
  const [haveMajor, haveMinor] = version.replace("v", "").split(".").map(Number);
  return haveMajor > major || (haveMajor === major && haveMinor >= minor);
}

function fail(message) {
  process.stderr.write(`chameleon: ${message}\n`);
  process.exit(1);
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
 * what came through the pipes of `options.stdio`. SIGTERM and SIGHUP are passed on; a terminal's Ctrl-C reaches the child
 * by itself, so here it is only outlived.
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
      if (signal !== "SIGINT") child.kill(signal);
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

/** The pinned Node of node_modules where it runs (Linux with glibc), else the one running this, if new enough. */
function pickNode() {
  const pinned = path.join(root, "node_modules", `node-linux-${process.arch}`, "bin", "node");
  if (process.platform === "linux" && existsSync(pinned) && spawnSync(pinned, ["--version"]).status === 0)
    return pinned;
  if (isAtLeast(process.version, oldestTypeScriptNode)) return process.execPath;
  return fail(
    `on ${process.platform} ${process.arch}, Node ${oldestTypeScriptNode.join(".")} or newer is needed; this is ${process.version}.`,
  );
}

const [command, ...rest] = process.argv.slice(2);
if (!isAtLeast(process.version, oldestNode))
  fail(`Node ${oldestNode[0]} or newer is needed; this is ${process.version}.`);
if (!Object.hasOwn(commands, command ?? "")) {
  const lines = Object.entries(commands).map(([name, [help]]) => `  ${name.padEnd(14)}${help}`);
  const usage = `usage: chameleon COMMAND [arguments]\n\n${lines.join("\n")}\n`;
  if (command === "--help" || command === "-h") process.stdout.write(usage);
  else {
    process.stderr.write(command ? `chameleon: there is no command "${command}".\n\n${usage}` : usage);
    process.exit(2);
  }
} else {
  await install();
  const node = pickNode();
  const directories = [path.dirname(node), path.join(root, "node_modules", ".bin"), process.env.PATH];
  const [, entry, ...first] = commands[command];
  const { code } = await run(node, [path.join(root, entry), ...first, ...rest], {
    // The channel says nothing; that it closes tells the child that this process is gone, however it ended.
    stdio: ["inherit", "inherit", "inherit", "ipc"],
    env: { ...hugePages, ...process.env, PATH: directories.join(path.delimiter) },
  });
  process.exit(code);
}

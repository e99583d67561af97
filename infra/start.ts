/**
 * `npm start`: edge and backend on this machine, up to the first generated token, until a signal or a crash.
 * On stdout the ready line alone; progress and logs on stderr. Not here: how a deployment starts its parts.
 */
import { randomBytes } from "node:crypto";
import { cp } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { InvalidArgumentError } from "commander";
import { count, createCommand, parsedOptions } from "../gpu-backend/command-line.ts";
import { startBackends } from "./local-backends.ts";
import { artifactsFolder, localKey, pagesFolder, prepareEdge, startEdge, stateFolder } from "./local-edge.ts";
import { claimStateFolder, writeLocalRun } from "./local-run.ts";
import { assertPortsFree, readPort } from "./ports.ts";
import { publishedManifest } from "./publish/store.ts";
import { runScript } from "./run-script.ts";
import { stageArtifacts } from "./stage-artifacts.ts";

const maxBackends = 16;
const program = createCommand(
  "start",
  "Serve Chameleon Edge on this machine until Ctrl-C; one line says so once a token was generated",
  [
    "chameleon start",
    "chameleon start --model ./qwen2.5-0.5b-q8_0.gguf",
    "EDGE_PORT=9000 chameleon start --backends 2",
  ],
  `Environment:
  EDGE_PORT     port of the edge, 8787 unless set
  EDGE_HOSTS    names besides loopback ones that requests may have in Host, separated by commas
  BACKEND_PORT  port of the first backend, 8788 unless set
  MODEL_DIR     folder of the model and its artifacts, the embedded one unless set or --model is given
  STATE_DIR     where keys, limits, use and published artifacts are kept, .chameleon unless set
  BACKEND_SECRETS  what the edge signs its calls to the backend with, a new one for each start unless set
What the backend reads besides, \`chameleon backend --help\` names by its flags: MAX_SEQUENCES is --max-sequences.

Exit code: 0 after Ctrl-C or another signal that ends it, 1 where a part failed.`,
)
  .option(
    "--backends <n>",
    `as many backends (${maxBackends} at most), on BACKEND_PORT and the ports after it; one that dies is started again`,
    backendCount,
    1,
  )
  .option(
    "--model <source>",
    "another base: a GGUF file, a folder as Hugging Face lays it out, or a hub id; it is imported first and serves without adapters until you train some",
  )
  .option(
    "--json",
    'the ready line as JSON: {"ready":true,"edge":URL,"key":KEY,"backends":[{"url":URL,"pid":N}]}',
    false,
  );

interface StartOptions {
  backends: number;
  json: boolean;
  model?: string;
}

const say = (line: string) => void process.stderr.write(`${line}\n`);

async function start({ backends: count, json, model }: StartOptions): Promise<void> {
  if (model !== undefined) process.env.MODEL_DIR = await importedFolder(model);
  const edgePort = readPort(process.env, "EDGE_PORT", 8787);
  const backendPort = readPort(process.env, "BACKEND_PORT", 8788);
  const backendPorts = Array.from({ length: count }, (_, i) => (backendPort === 0 ? 0 : backendPort + i));
  claimStateFolder(stateFolder());
  await assertPortsFree([
    ["EDGE_PORT", edgePort],
    ...backendPorts.map((port): [string, number] => ["BACKEND_PORT", port]),
  ]);

  // Static assets of this start, apart from those of other starts and of tests.
  const assets = path.join(stateFolder(), "assets");
  await stageArtifacts(process.env.MODEL_DIR || undefined, path.join(assets, "artifacts"));
  say(count > 1 ? `starting ${count} backends…` : "starting backend…");
  // Only this machine's users can reach the backends; calls are signed all the same, as in a deployment.
  const secrets = process.env.BACKEND_SECRETS || randomBytes(32).toString("hex");
  const artifacts = process.env.ARTIFACTS_URL || pathToFileURL(artifactsFolder()).href;
  const [{ backends, ended }, preparedEdge] = await Promise.all([
    startBackends(backendPorts, { BACKEND_SECRETS: secrets, ARTIFACTS_URL: artifacts }, say),
    prepareEdge(),
  ]);
  const fail = (how: string) => {
    say(`chameleon: ${how}`);
    process.exit(1);
  };
  void ended.then(fail);
  say("starting edge…");
  const isPage = (file: string) => file !== path.join(pagesFolder, "artifacts");
  await cp(pagesFolder, assets, { recursive: true, filter: isPage });
  const urls = backends.map(({ url }) => url);
  const { url: edge, ended: edgeEnded } = await startEdge(preparedEdge, {
    port: edgePort,
    assets,
    backendUrls: urls,
    secrets,
  });
  void edgeEnded.then((how) => fail(`the edge ${how}`));
  await generateToken(edge);
  const published = await publishedManifest(artifactsFolder());
  if (published) say(`published artifacts come first: ${published} (npm run publish -- --list)`);
  await writeLocalRun(stateFolder(), { pid: process.pid, edge });
  const ready = { ready: true, edge, key: localKey, backends };
  process.stdout.write(json ? `${JSON.stringify(ready)}\n` : `ready ${edge} key ${localKey}\n`);
}

/** Imports a model. Returns its folder. */
async function importedFolder(source: string): Promise<string> {
  const printed = await runScript(new URL("../gpu-backend/models/import/cli.ts", import.meta.url), [
    "--json",
    "--",
    source,
  ]);
  return JSON.parse(printed).folder;
}

/** Generates one token through edge and backend. Throws an Error with the answer where that fails. */
async function generateToken(edge: string): Promise<void> {
  const response = await fetch(`${edge}/v1/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${localKey}`, "content-type": "application/json" },
    body: JSON.stringify({ chameleon: { adapter: "off" }, prompt: "Ready", max_tokens: 1 }),
    signal: AbortSignal.timeout(60_000),
  });
  if (!response.ok) throw new Error(`the first completion was answered ${response.status}: ${await response.text()}`);
}

function backendCount(text: string): number {
  const backends = count(text);
  if (backends <= maxBackends) return backends;
  throw new InvalidArgumentError(`must be at most ${maxBackends}`);
}

const options = parsedOptions<StartOptions>(program);
// Everything started is ended by exit hooks, so that each of these ends everything, also half-way through a start. A signal
// may come twice, from a terminal and from the bootstrap: the listener stays, so that the second does not cut the hooks off.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(0));
process.once("disconnect", () => process.exit(0));
process.channel?.unref();
await start(options);

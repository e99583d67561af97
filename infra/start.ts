/** `chameleon start`: serves edge and backends until a signal or a crash. Prints the ready line once a token was generated. */
import { randomBytes } from "node:crypto";
import { pathToFileURL } from "node:url";
import { InvalidArgumentError } from "commander";
import { count, createCommand, parsedOptions } from "../gpu-backend/command-line.ts";
import { startBackends } from "./local-backends.ts";
import { artifactsFolder, prepareEdge } from "./local-edge.ts";
import { readPort } from "./ports.ts";
import { runScript } from "./run-script.ts";
import {
  type EdgeOptions,
  edgeEnvironment,
  endOnSignals,
  fail,
  preparePlace,
  progressOf,
  readDrainMs,
  type ServedEdge,
  serveEdge,
  withEdgeOptions,
} from "./serve-edge.ts";

const maxBackends = 16;
const program = withEdgeOptions(
  createCommand(
    "start",
    "Serve Chameleon Edge on this machine until Ctrl-C; it says so once a token was generated",
    [
      "chameleon start",
      "chameleon start --port 9000 --backends 2",
      "chameleon start --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
      "chameleon start --model ./qwen2.5-0.5b-q8_0.gguf",
    ],
    `\`chameleon start edge\` serves the edge alone, \`chameleon start backend\` a backend.

Environment:
${edgeEnvironment}
  BACKEND_PORT  port of the first backend, on loopback, 8788 unless set
  MODEL_DIR     folder of the model and its artifacts, the embedded one unless set or --model is given
  BACKEND_SECRETS  what the edge signs its calls to the backend with, a new one for each start unless set
What the backend reads besides, \`chameleon backend --help\` names by its flags: MAX_SEQUENCES is --max-sequences.

Exit code: 0 after Ctrl-C or another signal that ends it, 1 where a part failed.`,
  ),
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
  );

interface StartOptions extends EdgeOptions {
  backends: number;
  model?: string;
}

async function start({ backends: count, model, ...options }: StartOptions): Promise<void> {
  const say = progressOf(options);
  if (model !== undefined) process.env.MODEL_DIR = await importedFolder(model);
  const backendPort = readPort(process.env, "BACKEND_PORT", 8788);
  const backendPorts = Array.from({ length: count }, (_, i) => (backendPort === 0 ? 0 : backendPort + i));
  const place = await preparePlace(options, backendPorts);
  say(count > 1 ? `starting ${count} backends…` : "starting backend…");
  // Calls are signed as in a deployment, although only this machine can reach the backends.
  const secrets = process.env.BACKEND_SECRETS || randomBytes(32).toString("hex");
  const artifacts = process.env.ARTIFACTS_URL || pathToFileURL(artifactsFolder()).href;
  const settings = { BACKEND_SECRETS: secrets, ARTIFACTS_URL: artifacts, DRAIN_MS: String(readDrainMs()) };
  const starting = startBackends(backendPorts, settings, say);
  const [{ backends, ended }, prepared] = await Promise.all([starting, prepareEdge()]);
  void ended.then(fail);
  say("starting edge…");
  const backendUrls = backends.map(({ url }) => url);
  const edge = await serveEdge(prepared, { place, backendUrls, secrets }, options);
  await generateToken(edge);
  await edge.announce(backends);
}

async function importedFolder(source: string): Promise<string> {
  const script = new URL("../gpu-backend/models/import/cli.ts", import.meta.url);
  const printed = await runScript(script, ["--json", "--", source]);
  return JSON.parse(printed).folder;
}

/** Throws an Error with the edge's answer if no token can be generated. */
async function generateToken({ url, key }: ServedEdge): Promise<void> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
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
endOnSignals();
await start(options);

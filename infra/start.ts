/**
 * `npm start`: edge and backend on this machine, up to the first generated token, until a signal or a crash.
 * On stdout the ready line alone; progress and logs on stderr. Not here: how a deployment starts its parts.
 */
import { Console } from "node:console";
import path from "node:path";
import { parseArgs } from "node:util";
import { startBackend } from "./local-backend.ts";
import { localKey, startEdge } from "./local-edge.ts";
import { assertPortsFree, readPort } from "./ports.ts";
import { stageArtifacts } from "./stage-artifacts.ts";

const help = `usage: npm start [-- --json]

Serves Chameleon Edge on this machine until Ctrl-C, and says so in one line once a token was generated.
  --json        the ready line as JSON: {"ready":true,"edge":URL,"key":KEY,"backends":[{"url":URL,"pid":N}]}
  EDGE_PORT     port of the edge, 8787 unless set
  BACKEND_PORT  port of the backend, 8788 unless set
  MODEL_DIR     the model and its artifacts, the embedded one unless set
  STATE_DIR     where keys, limits and use are kept, .wrangler/state unless set
What the backend reads besides is in gpu-backend/config.ts.
`;

const root = path.dirname(import.meta.dirname);
const say = (line: string) => void process.stderr.write(`${line}\n`);

async function start(json: boolean): Promise<void> {
  const edgePort = readPort(process.env, "EDGE_PORT", 8787);
  const backendPort = readPort(process.env, "BACKEND_PORT", 8788);
  await assertPortsFree({ EDGE_PORT: edgePort, BACKEND_PORT: backendPort });

  await stageArtifacts(process.env.MODEL_DIR || undefined);
  say("starting backend…");
  const backend = await startBackend(root, backendPort);
  void backend.ended.then((how) => {
    say(`chameleon: the backend ${how}`);
    process.exit(1);
  });
  say("starting edge…");
  const edge = await startEdge(root, edgePort, [backend.url]);
  await generateToken(edge);
  const ready = { ready: true, edge, key: localKey, backends: [{ url: backend.url, pid: backend.pid }] };
  process.stdout.write(json ? `${JSON.stringify(ready)}\n` : `ready ${edge} key ${localKey}\n`);
}

/** Ready means that a real token came all the way. Throws an Error with the answer if none did. */
async function generateToken(edge: string): Promise<void> {
  const response = await fetch(`${edge}/v1/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${localKey}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt2", prompt: "Ready", max_tokens: 1 }),
    signal: AbortSignal.timeout(60_000),
  });
  if (!response.ok) throw new Error(`the first completion was answered ${response.status}: ${await response.text()}`);
}

function readArguments(): { json?: boolean; help?: boolean } {
  try {
    return parseArgs({ options: { json: { type: "boolean" }, help: { type: "boolean", short: "h" } } }).values;
  } catch (error) {
    say(`chameleon: ${(error as Error).message}\n\n${help}`);
    process.exit(2);
  }
}

const options = readArguments();
if (options.help) {
  process.stdout.write(help);
} else {
  // Whatever wrangler or the Worker log must not mix with the ready line.
  globalThis.console = new Console(process.stderr);
  // Everything started is ended by exit hooks, so that each of these ends everything, also half-way through a start.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(0));
  process.once("disconnect", () => process.exit(0));
  process.channel?.unref();
  try {
    await start(options.json ?? false);
  } catch (error) {
    say(`chameleon: ${(error as Error).message}`);
    process.exit(1);
  }
}

/**
 * `npm run image:check`: carries out the steps of infra/Dockerfile in a clean folder, looks at what the image holds, starts it by
 * its own command as its own user, and asks for a completion and for its health. Exit code 1 where anything is not as it should be.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { Option } from "commander";
import { createCommand, parsedOptions } from "../../gpu-backend/command-line.ts";
import { type BatchRequest, frameSchema } from "../../shared/contracts/inference.ts";
import { type BuiltImage, buildImage, commandLineOf } from "./build.ts";
import { inspect } from "./contents.ts";

const root = path.join(import.meta.dirname, "../..");
const program = createCommand(
  "image:check",
  "Build an image's files without Docker, look at them, and get a completion from them",
  [
    "chameleon image:check",
    "sudo debootstrap --variant=minbase trixie ./debian && sudo chameleon image:check --debian ./debian",
  ],
  "With --debian, run it as root: the image's programs run in their own root then, with no file of this machine.",
)
  .addOption(new Option("--target <name>", "stage of infra/Dockerfile").choices(["cpu", "gpu"]).default("cpu"))
  .option(
    "--debian <folder>",
    "the system below the image, as debootstrap makes it; without, this machine's libraries",
  );
const { target, debian = null } = parsedOptions<{ target: string; debian?: string }>(program);

const architecture = process.arch === "arm64" ? "arm64" : "amd64";
const folder = mkdtempSync(path.join(tmpdir(), "chameleon-image-"));
try {
  const image = buildImage(target, {
    ...{ dockerfile: read("infra/Dockerfile"), ignoreFile: read("infra/Dockerfile.dockerignore") },
    ...{ context: root, folder, debian: debian && path.resolve(debian), architecture },
    log: (step) => process.stderr.write(`${step}\n`),
  });
  const { bytes, faults } = inspect(image.root, architecture);
  const MB = (count: number) => `${(count / 1e6).toFixed(0)} MB`;
  process.stdout.write(
    `size      ${MB(bytes.app)} backend and packages, ${MB(bytes.node)} Node, ${MB(bytes.system)} system\n`,
  );
  for (const fault of faults) process.stdout.write(`FAULT     ${fault}\n`);
  process.stdout.write(
    `contents  ${faults.length === 0 ? "no build tool, no other platform's file" : "not as they should be"}\n`,
  );
  process.stdout.write(`${await tryImage(image)}\n`);
  process.exitCode = faults.length === 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function read(file: string): string {
  return readFileSync(path.join(root, file), "utf8");
}

/** Throws an Error with what the server wrote where it does not start or answer. */
async function tryImage(image: BuiltImage): Promise<string> {
  const started = { ...image, env: { ...image.env, BACKEND_PORT: "0" } };
  const [command, ...args] = commandLineOf(started, image.command);
  const server = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  const exited = once(server, "close");
  let log = "";
  server.stderr.on("data", (text) => (log += text));
  try {
    const line = await firstLine(server.stdout);
    if (line === null) throw new Error(`the image's command ended before it was ready: ${log}`);
    const { url, manifest } = JSON.parse(line) as { url: string; manifest: string };
    const tokens = await complete(url, manifest);
    const env = { ...image.env, BACKEND_PORT: new URL(url).port };
    const [probe, ...probeArgs] = commandLineOf({ ...image, env }, image.healthcheck);
    const { status } = spawnSync(probe, probeArgs);
    if (status !== 0) throw new Error(`the health check of a server that is ready ended with ${status}`);
    return `server    started by \`${image.command.join(" ")}\`, ${tokens} tokens, healthy`;
  } finally {
    server.kill("SIGTERM");
    await exited;
  }
}

async function firstLine(stream: NodeJS.ReadableStream): Promise<string | null> {
  for await (const line of createInterface({ input: stream })) return line;
  return null;
}

/** Tokens of a completion of the base model. */
async function complete(url: string, manifestHash: string): Promise<number> {
  const sequence = {
    id: "a",
    tenant: "image",
    promptIds: [1, 2, 3],
    continuedIds: [],
    maxTokens: 8,
    sampling: { temperature: 0 },
  };
  const batch: BatchRequest = {
    ...{ version: 1, manifestHash, centroidId: null },
    sequences: [{ ...sequence, promptLogprobs: false, compare: false }],
  };
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${url}/v1/batches`, { method: "POST", headers, body: JSON.stringify(batch) });
  const text = await response.text();
  const frames = text.split("\n").filter((line) => line.startsWith("{"));
  const last = frameSchema.safeParse(JSON.parse(frames.at(-1) ?? "{}"));
  if (last.data?.type !== "done") throw new Error(`no completion: ${text}`);
  return last.data.completionTokens;
}

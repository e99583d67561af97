/** `chameleon adapters`: a tenant's own adapters through the API. Each file is an example text; JSONL has one a line. */
import type { Command } from "commander";
import { createCommand, readText, runCommand } from "../../gpu-backend/command-line.ts";
import {
  type Adapter,
  adapterDeletedSchema,
  adapterListSchema,
  adapterSchema,
} from "../../shared/contracts/responses.ts";
import { Connection, type ConnectionOptions, withConnection } from "./connection.ts";
import { besideBase } from "./stretches.ts";

interface Options extends ConnectionOptions {
  json?: boolean;
}

const program = createCommand(
  "adapters",
  "List, make and remove your own adapters, through the API of a running stack",
  ["chameleon adapters create legal ./examples/*.txt", "chameleon adapters list"],
);

command("list", "list your adapters").action(async (options: Options) => {
  const { data } = await new Connection(options).call(adapterListSchema, "GET", "/v1/adapters");
  if (options.json) process.stdout.write(`${JSON.stringify(data, null, 2)}\n`);
  else for (const adapter of data) process.stdout.write(`${lineOf(adapter)}\n`);
  if (data.length === 0) process.stderr.write("you have no adapters\n");
});

command("create <name> <files...>", "make an adapter of example texts, one a file; of .jsonl files, one a line").action(
  async (name: string, files: string[], options: Options) => {
    const examples = (await Promise.all(files.map(examplesIn))).flat();
    const connection = new Connection(options);
    show(await connection.call(adapterSchema, "POST", "/v1/adapters", { name, examples }), options);
  },
);

command("show <name>", "show one of your adapters").action(async (name: string, options: Options) => {
  show(await new Connection(options).call(adapterSchema, "GET", pathOf(name)), options);
});

command("remove <name>", "remove one of your adapters").action(async (name: string, options: Options) => {
  const removed = await new Connection(options).call(adapterDeletedSchema, "DELETE", pathOf(name));
  process.stdout.write(options.json ? `${JSON.stringify(removed)}\n` : `removed ${name}\n`);
  const { pending_backends: pending } = removed;
  if (pending > 0)
    process.stderr.write(`backends that have not confirmed it: ${pending}; they are asked until they do\n`);
});

await runCommand(program);

function command(usage: string, description: string): Command {
  return withConnection(program.command(usage).description(description)).option("--json", "print JSON");
}

function pathOf(name: string): string {
  return `/v1/adapters/${encodeURIComponent(name)}`;
}

async function examplesIn(file: string): Promise<string[]> {
  const text = await readText(file);
  if (!file.endsWith(".jsonl")) return [withText(text, file)];
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line, i) => exampleOf(line, `${file}:${i + 1}`));
}

function exampleOf(line: string, place: string): string {
  const refusal = new Error(`${place} must be a JSON string, or an object with a string "text"`);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw refusal;
  }
  const text = typeof value === "object" && value !== null && "text" in value ? value.text : value;
  if (typeof text === "string") return withText(text, place);
  throw refusal;
}

/** The API would name an example by its index. */
function withText(text: string, place: string): string {
  if (text.trim() === "") throw new Error(`${place} is empty`);
  return text;
}

function show(adapter: Adapter, { json }: Options): void {
  process.stdout.write(`${json ? JSON.stringify(adapter) : lineOf(adapter)}\n`);
}

function lineOf({ model, examples, gain, message, outdated }: Adapter): string {
  const measured = gain
    ? `${besideBase(gain.nats)} (${gain.nats.toFixed(2)} nats a token [${gain.ci95.map((bound) => bound.toFixed(2)).join(", ")}])`
    : message;
  return `${model}  ${examples} examples  ${outdated ? "made for other artifacts: make it again" : measured}`;
}

/** `chameleon adapters`: lists, makes and deletes a tenant's own adapters through the API. */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { count, createCommand, readBytes, readText, runCommand } from "../../gpu-backend/command-line.ts";
import { commandProgress } from "../../gpu-backend/training/progress.ts";
import {
  type Adapter,
  adapterDeletedSchema,
  adapterListSchema,
  adapterSchema,
} from "../../shared/contracts/responses.ts";
import { confirmDeletion } from "../confirm.ts";
import { Connection, type ConnectionOptions, withConnection } from "./connection.ts";
import { scoreText } from "./scoring.ts";
import { besideBase, scoreTable } from "./stretches.ts";

interface Options extends ConnectionOptions {
  json?: boolean;
}

const pollMs = 500;

const program = createCommand(
  "adapters",
  "List, make and delete your own adapters, through the API of a running stack",
  [
    "chameleon adapters create notes ./notes/*.md",
    "chameleon adapters create legal ./examples/*.txt --examples",
    "chameleon adapters score notes held-back.md",
  ],
  "Files may be Markdown, text, HTML or JSONL; convert PDF with: pdftotext -layout file.pdf file.txt",
);

command("list", "list your adapters").action(async (options: Options) => {
  const { data } = await new Connection(options).call(adapterListSchema, "GET", "/v1/adapters");
  if (options.json) process.stdout.write(`${JSON.stringify(data, null, 2)}\n`);
  else for (const adapter of data) process.stdout.write(`${lineOf(adapter)}\n`);
  if (data.length === 0) process.stderr.write("you have no adapters\n");
});

command("create <name> <files...>", "make an adapter of documents, one a file; of .jsonl files, one a line")
  .option("--examples", "fit the adapter to the files as example texts, instead of remembering them")
  .option(
    "--no-keep",
    "have the files deleted once it is made: it is not made again for other artifacts, and cannot grow",
  )
  .action(async (name: string, files: string[], options: Options & { examples?: boolean; keep: boolean }) => {
    const connection = new Connection(options);
    const { keep } = options;
    const body = options.examples
      ? { name, examples: (await Promise.all(files.map(examplesIn))).flat(), keep }
      : await formOf(files, { name, keep: `${keep}` });
    show(await finished(connection, await connection.call(adapterSchema, "POST", "/v1/adapters", body)), options);
  });

command("add <name> <files...>", "add documents to one of your adapters").action(
  async (name: string, files: string[], options: Options) => {
    const connection = new Connection(options);
    const body = await formOf(files);
    const added = await connection.call(adapterSchema, "POST", `${pathOf(name)}/documents`, body);
    show(await finished(connection, added), options);
  },
);

command("show <name>", "show one of your adapters and its documents").action(async (name: string, options: Options) => {
  const adapter = await new Connection(options).call(adapterSchema, "GET", pathOf(name));
  show(adapter, options);
  if (options.json) return;
  for (const { name: document, tokens, bytes } of adapter.documents ?? []) {
    process.stdout.write(`  ${document}  ${tokens} tokens  ${bytes} bytes\n`);
  }
});

command("delete <name> [documents...]", "delete one of your adapters, or single documents of it")
  .alias("remove")
  .option("--yes", "do not ask")
  .action(async (name: string, documents: string[], options: Options & { yes?: boolean }) => {
    const what = documents.length === 0 ? name : `${documents.join(", ")} of ${name}`;
    if (!options.yes) await confirmDeletion(`delete ${what}?`);
    const connection = new Connection(options);
    for (const document of documents) {
      const at = `${pathOf(name)}/documents/${encodeURIComponent(document)}`;
      const left = await finished(connection, await connection.call(adapterSchema, "DELETE", at));
      if (document === documents.at(-1)) show(left, options);
    }
    if (documents.length > 0) return;
    const deleted = await connection.call(adapterDeletedSchema, "DELETE", pathOf(name));
    process.stdout.write(options.json ? `${JSON.stringify(deleted)}\n` : `deleted ${name}\n`);
    const { pending_backends: pending } = deleted;
    if (pending > 0)
      process.stderr.write(`backends that have not confirmed it: ${pending}; they are asked until they do\n`);
  });

command("score <name> <file>", "score a text that the adapter does not have, under the base and with the adapter")
  .option("--evidence-tokens <n>", "first tokens of a stretch, which assign and weigh and are not scored", count, 64)
  .action(async (name: string, file: string, options: Options & { evidenceTokens: number }) => {
    const text = await readText(file);
    const { evidenceTokens } = options;
    const { stretches, scores } = await scoreText(new Connection(options), text, { own: name }, evidenceTokens);
    const { base, own } = scores;
    if (options.json) process.stdout.write(`${JSON.stringify({ stretches, base, [name]: own })}\n`);
    else process.stdout.write(scoreTable({ base, [name]: own }));
  });

await runCommand(program);

function command(usage: string, description: string): Command {
  return withConnection(program.command(usage).description(description)).option("--json", "print JSON");
}

function pathOf(name: string): string {
  return `/v1/adapters/${encodeURIComponent(name)}`;
}

async function formOf(files: readonly string[], fields: Record<string, string> = {}): Promise<FormData> {
  const form = new FormData();
  for (const [field, value] of Object.entries(fields)) form.set(field, value);
  for (const file of files) {
    const bytes = await readBytes(file);
    if (bytes.length === 0) throw new Error(`${file} is empty`);
    const type = path.extname(file) === "" ? "text/plain" : "";
    form.append("documents", new File([bytes], file, { type }), file);
  }
  return form;
}

async function finished(connection: Connection, adapter: Adapter): Promise<Adapter> {
  let now = adapter;
  const isRunning = () => now.memory?.status === "queued" || now.memory?.status === "building";
  if (isRunning()) {
    process.stderr.write(
      `${adapter.name} is being made; it goes on without this command, \`show\` tells how far it is\n`,
    );
    const progress = commandProgress();
    progress.stage("tokens", now.memory!.tokens);
    while (isRunning()) {
      progress.advance(now.memory!.built_tokens, now.memory!.error ?? "");
      await sleep(pollMs);
      now = await connection.call(adapterSchema, "GET", pathOf(adapter.name));
    }
    progress.end();
  }
  if (now.memory?.status === "failed") throw new Error(now.memory.error ?? `${adapter.name} could not be made`);
  return now;
}

/** An example is the whole file or, in JSONL, a line or the line's field `text`. The API checks the form of examples. */
async function examplesIn(file: string): Promise<unknown[]> {
  const text = await readText(file);
  if (!file.endsWith(".jsonl")) return [text];
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line, i) => {
    try {
      const example = JSON.parse(line);
      return example?.text ?? example;
    } catch (cause) {
      throw new Error(`line ${i + 1} of ${file} is not JSON`, { cause });
    }
  });
}

function show(adapter: Adapter, { json }: Options): void {
  process.stdout.write(`${json ? JSON.stringify(adapter) : lineOf(adapter)}\n`);
}

function lineOf({ model, examples, gain, memory, message, refit }: Adapter): string {
  const measured = gain
    ? `${besideBase(gain.nats)} (${gain.nats.toFixed(2)} nats a token [${gain.ci95.map((bound) => bound.toFixed(2)).join(", ")}])`
    : message;
  const remembered = memory && `${memory.documents} documents, ${memory.tokens} tokens, ${memory.status}`;
  const fitted = examples > 0 || !memory ? `${examples} examples  ${measured}` : null;
  const again =
    refit &&
    (refit.error === null
      ? "being made again for the artifacts of now"
      : `${refit.status === "failed" ? "cannot be made again" : "waits to be made again"}: ${refit.error}`);
  const state = [remembered, fitted, again];
  return [model, ...state.filter((part) => part !== null)].join("  ");
}

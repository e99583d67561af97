/** Own adapters of documents and of examples, end to end: `npm start` as it is, and with a backend that lost its disk. */
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import type { Adapter, AdapterList, CompletionResponse } from "../../shared/contracts/responses.ts";
import { atEnd } from "../support/at-end.ts";
import { startStack } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Random Spanish words, which the served model predicts badly. */
const words =
  "el mar la noche una casa del río que viene con las manos vacías para nunca volver y luz entre los árboles sobre tierra fría donde duerme niño bajo cielo gris".split(
    " ",
  );
const seed = 35;
const random = seededRandom(seed);
const text = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");

const folder = temporaryFolder();
const start = (data: string) => startStack({ STATE_DIR: join(folder, "state"), DATA_DIR: join(folder, data) });
let stack = await start("one");
atEnd(() => stack.stop());

/** Mean log-probability of a text's tokens under `adapter`, except for the first 64 tokens, which serve as evidence. */
async function scoreOf(prompt: string, adapter: string): Promise<number> {
  const asked = { prompt, max_tokens: 0, echo: true, logprobs: 0, chameleon: { adapter, evidence_tokens: 64 } };
  const { choices } = await stack.ask<CompletionResponse>("/v1/completions", asked);
  const known = choices[0].logprobs!.token_logprobs.slice(64) as number[];
  return known.reduce((sum, logprob) => sum + logprob, 0) / known.length;
}

const make = (body: { name: string; documents?: object[] | string[]; examples?: string[] }) =>
  stack.ask<Adapter>("/v1/adapters", body, { status: 201 });

test("documents and examples make such text likelier, the passages are the documents', and all outlive a lost disk", async () => {
  const documents = [
    { name: "uno.md", text: text(400) },
    { name: "dos.md", text: text(400) },
  ];
  const { gain, hash } = await make({ name: "verso", examples: Array.from({ length: 20 }, () => text(60)) });
  const prompt = text(120);
  const taught = (await scoreOf(prompt, "verso")) - (await scoreOf(prompt, "off"));
  expect(taught).toBeGreaterThan(0.7 * gain!.nats);
  expect(taught).toBeLessThan(1.3 * gain!.nats);
  await make({ name: "poema", documents });
  const scores = async () => Promise.all(["off", "poema", "auto", "verso"].map((adapter) => scoreOf(prompt, adapter)));
  const before = await scores();
  const [base, named, automatic] = before;
  expect(named - base).toBeGreaterThan(0.1);
  expect(automatic - base).toBeGreaterThan(0.1);

  const asked = { prompt: text(80), max_tokens: 12, temperature: 0, chameleon: { adapter: "poema", sources: true } };
  const { choices } = await stack.ask<CompletionResponse>("/v1/completions", asked);
  const { memories, sources } = choices[0].chameleon!;
  expect(memories).toEqual([{ id: "poema", brake: expect.any(Number) }]);
  expect(sources!.map(({ token }) => token).join("")).toBe(choices[0].text);
  const passages = sources!.flatMap((one) => one.passages.map((passage) => ({ token: one.token, ...passage })));
  expect(passages.length).toBeGreaterThan(0);
  for (const { token, adapter, document, start: from, end } of passages) {
    const bytes = new TextEncoder().encode(documents.find(({ name }) => name === document)!.text);
    expect(adapter).toBe("poema");
    expect(new TextDecoder().decode(bytes.slice(from, end)).endsWith(token)).toBe(true);
  }

  await stack.stop();
  stack = await start("two");
  expect(await scores()).toEqual(before);
  const { data } = await stack.ask<AdapterList>("/v1/adapters");
  expect(data.find(({ name }) => name === "verso")).toMatchObject({ hash, adapts: true, outdated: false });
  await stack.ask("/v1/adapters/verso", undefined, { method: "DELETE" });
}, 240_000);

test(`with text of one of a tenant's kinds, auto is within .01 nats of asking for it by name (seed ${seed})`, async () => {
  const kinds = {
    deploy: "kubectl apply rollout status helm upgrade namespace replicas ingress probe timeout secret",
    chess: "e4 e5 Nf3 Nc6 Bb5 a6 Ba4 Nf6 O-O Be7 Re1 b5 Bb3 d6 c3 h3",
    recipe: "Butter zwei Eier Mehl unterheben bei Hitze backen Zucker schlagen dann Teig ruhen lassen",
    sql: "SELECT name FROM users JOIN orders ON id WHERE total > 42 GROUP BY city ORDER HAVING count",
    psalm: "dominus regit me et nihil mihi deerit in loco pascuae ibi super aquam refectionis educavit",
  };
  const random = seededRandom(seed);
  const of = (kind: string, length: number) => {
    const its = kind.split(" ");
    return Array.from({ length }, () => its[Math.floor(random() ** 2 * its.length)]).join(" ");
  };
  for (const [name, kind] of Object.entries(kinds)) {
    await make({ name, documents: [of(kind, 200), of(kind, 200)] });
  }
  for (const [name, kind] of Object.entries(kinds)) {
    const prompt = of(kind, 90);
    const [base, named, automatic] = await Promise.all(["off", name, "auto"].map((one) => scoreOf(prompt, one)));
    console.log(`${name}: base ${base.toFixed(3)}, by name ${named.toFixed(3)}, auto ${automatic.toFixed(3)}`);
    expect(named - base).toBeGreaterThan(0.05);
    expect(named - automatic).toBeLessThan(0.01);
  }
});

test("the command makes one of files, adds, shows, scores and deletes", async () => {
  const adapters = async (...args: string[]) => {
    const cli = join(import.meta.dirname, "../../infra/api/adapters.ts");
    const place = ["--url", stack.edge, "--key", stack.key];
    return promisify(execFile)(process.execPath, [cli, ...args, ...place], { cwd: folder });
  };
  const told = async <T = Adapter>(...args: string[]) => JSON.parse((await adapters(...args, "--json")).stdout) as T;
  const refusal = (...args: string[]) =>
    adapters(...args).then(
      () => expect.fail("the command succeeded"),
      ({ code, stderr }: { code: number; stderr: string }) => [code, stderr],
    );
  type Scores = Record<string, { nats: number }>;
  await writeFile(join(folder, "uno.md"), text(300));
  await writeFile(join(folder, "dos.html"), `<h1>${text(20)}</h1><p>${text(200)}</p>`);
  await writeFile(join(folder, "held-back.txt"), text(200));
  await writeFile(join(folder, "scan.pdf"), "%PDF-1.7");
  expect((await adapters("create", "notas", "uno.md")).stdout).toMatch(
    /^\S+:notas {2}1 documents, \d+ tokens, ready$/m,
  );
  const added = await told("add", "notas", "dos.html");
  expect(added.documents!.map(({ name }) => name)).toEqual(["uno.md", "dos.html"]);
  expect(await refusal("add", "notas", "scan.pdf")).toEqual([1, expect.stringContaining("pdftotext")]);
  expect((await adapters("show", "notas")).stdout).toMatch(/^ {2}dos\.html {2}\d+ tokens {2}\d+ bytes$/m);
  const scores = await told<Scores>("score", "notas", "held-back.txt");
  expect(scores.base.nats - scores.notas.nats).toBeGreaterThan(0.1);
  expect(await refusal("delete", "notas")).toEqual([2, expect.stringContaining("--yes")]);
  await adapters("delete", "notas", "uno.md", "--yes");
  const left = await told("show", "notas");
  expect(left.documents!.map(({ name }) => name)).toEqual(["dos.html"]);
  expect((await adapters("delete", "notas", "--yes")).stdout).toBe("deleted notas\n");

  const unkept = await told("create", "fugaz", "uno.md", "--no-keep");
  expect(unkept).toMatchObject({ keep: false, message: expect.any(String), memory: { status: "ready" } });
  expect(await refusal("add", "fugaz", "dos.html")).toEqual([1, expect.stringContaining("were not kept")]);
  const scored = await told<Scores>("score", "fugaz", "held-back.txt");
  expect(scored.base.nats - scored.fugaz.nats, "as well as one that is kept").toBeGreaterThan(0.1);
  await adapters("delete", "fugaz", "--yes");

  const examples = Array.from({ length: 8 }, () => JSON.stringify({ text: text(40) })).join("\n");
  await writeFile(join(folder, "examples.jsonl"), examples);
  const ofExamples = ["examples.jsonl", "--examples"];
  expect(await told("create", "fabula", ...ofExamples)).toMatchObject({
    model: expect.stringMatching(/:fabula$/),
    examples: 8,
    adapts: true,
  });
  expect((await adapters("list")).stdout).toMatch(/^\S+:fabula {2}8 examples {2}perplexity \d+% lower/m);
  const taken = /^chameleon adapters: You have an adapter fabula already[^\n]*\n$/;
  expect(await refusal("create", "fabula", ...ofExamples)).toEqual([1, expect.stringMatching(taken)]);
  await writeFile(join(folder, "examples.jsonl"), '"a text"\n""\n');
  expect(await refusal("create", "empty", ...ofExamples)).toEqual([1, expect.stringContaining("examples[1]")]);
  await adapters("delete", "fabula", "--yes");
  expect(await refusal("show", "fabula")).toEqual([1, expect.stringContaining("no adapter")]);
}, 300_000);

/** Memories in real processes: made of documents, served, kept through restarts and kills, deleted for good. */
import { readdir, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import {
  type Documents,
  type MemoryProgress,
  memoryProgressSchema,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { memoryHash } from "../../shared/contracts/memory-hash.ts";
import { atEnd } from "../support/at-end.ts";
import { allFrames, framesOf, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { smallBase } from "../support/small-base.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const data = temporaryFolder();
const start = () => startBackend({ MODEL_DIR: smallBase, DATA_DIR: data, THREADS: "1" });
let backend = await start();
atEnd(() => backend.stop());

const words = "harbour ledger stair lantern copper gull quay rope master tide".split(" ");
const textOf = (seed: number, length: number) =>
  `${seed} ${Array.from({ length }, (_, i) => words[(i * i + seed * i) % words.length]).join(" ")}`;
const documentsOf = (count: number, length: number, seed = 0): Documents =>
  Array.from({ length: count }, (_, i) => ({ name: `document ${i}`, text: textOf(seed + i, length) }));

const hashOf = (documents: Documents) => memoryHash("acme", backend.manifestHash, documents);
async function put(documents: Documents, signal?: AbortSignal): Promise<Response> {
  const { manifestHash } = backend;
  return fetch(`${backend.url}/v1/memories/acme/${await hashOf(documents)}`, {
    method: "PUT",
    body: JSON.stringify({ version: 4, manifestHash, documents }),
    signal,
  });
}
async function* linesOf(response: Response): AsyncGenerator<MemoryProgress> {
  let text = "";
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const lines = text.split("\n");
    text = lines.pop()!;
    for (const line of lines) yield memoryProgressSchema.parse(JSON.parse(line));
  }
}
/** Makes a memory, and returns the last line of the answer, which reports that the memory is ready. */
const made = async (documents: Documents) => {
  const lines = await Array.fromAsync(linesOf(await put(documents)));
  expect(lines[0].type).toBe("progress");
  const last = lines.at(-1)!;
  if (last.type !== "ready") throw new Error(`the memory is not made: ${JSON.stringify(last)}`);
  return last;
};
const reading = async (id: string, documents: Documents, rest: Partial<SequenceRequest> = {}) =>
  backend.batch(null, [
    sequenceRequest(id, [1, 2, 3], {
      ...{ tenant: "acme", memories: [{ hash: await hashOf(documents) }] },
      ...rest,
      sampling: { ignore_eos: true },
    }),
  ]);
const remove = async (path: string) => fetch(`${backend.url}/v1/memories/${path}`, { method: "DELETE" });

test("a memory is built, served to its tenant alone, kept over a restart, and gone when it is deleted", async () => {
  const documents = documentsOf(3, 300);
  const missing = await backend.post("/v1/batches", await reading("a", documents));
  expect([missing.status, await missing.json()]).toMatchObject([404, { error: { code: "memory_not_found" } }]);
  const first = await made(documents);
  expect(first.computedTokens).toBe(first.tokens);
  expect(await made(documents)).toMatchObject({ computedTokens: 0 });
  const served = async (id: string) =>
    allFrames(await backend.post("/v1/batches", await reading(id, documents, { sources: true })));
  const frames = await served("b");
  expect(frames.at(-1)).toMatchObject({ type: "done", memories: [{ brake: expect.any(Number) }] });
  const foreign = await backend.post("/v1/batches", await reading("c", documents, { tenant: "other" }));
  expect(foreign.status).toBe(404);

  await backend.stop("SIGTERM");
  backend = await start();
  const after = await served("b");
  const tokens = (all: typeof frames) => all.filter(({ type }) => type === "token");
  expect(tokens(after)).toEqual(tokens(frames));
  expect(await backend.metric("chameleon_memory_disk_files")).toBe(1);

  const grown = [...documents, ...documentsOf(1, 50, 77)];
  const more = await made(grown);
  expect(more.computedTokens).toBe(more.tokens - first.tokens);

  expect((await remove(`acme/${await hashOf(documents)}`)).status).toBe(204);
  expect((await backend.post("/v1/batches", await reading("d", documents))).status).toBe(404);
  expect((await backend.post("/v1/batches", await reading("e", grown))).status).toBe(200);
});

test("an answer whose memory is deleted ends in memory_deleted; nothing of the tenant can be read from the disk", async () => {
  const documents = documentsOf(2, 200, 5);
  await made(documents);
  const answer = await backend.post("/v1/batches", await reading("f", documents, { maxTokens: 900 }));
  let last: unknown;
  let isDeleted = false;
  for await (const frame of framesOf(answer)) {
    if (!isDeleted && frame.type === "token") {
      isDeleted = true;
      const files = await readdir(join(data, "tenants"), { recursive: true });
      for (const name of files) {
        const path = join(data, "tenants", name);
        if (!(await stat(path)).isFile()) continue;
        const bytes = await readFile(path);
        for (const word of words) expect(bytes.includes(` ${word} `)).toBe(false);
      }
      expect((await remove("acme")).status).toBe(204);
    }
    last = frame;
  }
  expect(last).toMatchObject({ type: "error", kind: "memory_deleted" });
  expect(await readdir(join(data, "tenants", "memories"))).toEqual([]);
});

test.each<NodeJS.Signals | "leave">(["SIGKILL", "leave"])(
  "a build that ends by %s is continued without computing documents again",
  async (how) => {
    const documents = documentsOf(40, 400, how === "leave" ? 100 : 200);
    const caller = new AbortController();
    let done = 0;
    const build = async () => {
      for await (const line of linesOf(await put(documents, caller.signal))) {
        if (line.type !== "progress" || line.tokens === 0) continue;
        done = line.tokens;
        if (how === "leave") caller.abort();
        else backend.child.kill(how);
      }
    };
    await expect(build()).rejects.toThrow();
    expect(done).toBeGreaterThan(0);
    if (how !== "leave") {
      await backend.exited;
      backend = await start();
    }
    const again = await made(documents);
    expect(again.computedTokens).toBeLessThanOrEqual(again.tokens - done);
  },
);

test.each<[string, (file: string) => Promise<void>]>([
  [
    "another byte",
    async (file) => {
      const bytes = await readFile(file);
      bytes[bytes.length >> 1] ^= 1;
      await writeFile(file, bytes);
    },
  ],
  ["a cut end", async (file) => truncate(file, (await stat(file)).size - 100)],
])("a memory's file with %s counts as missing once a reader has met it, and is made again", async (how, damage) => {
  const documents = documentsOf(2, 100, 300 + how.length);
  await made(documents);
  const hash = await hashOf(documents);
  const files = await readdir(join(data, "tenants"), { recursive: true });
  await damage(join(data, "tenants", files.find((name) => name.endsWith(hash))!));
  for (let sent = 0, isMissing = false; !isMissing; sent++) {
    expect(sent, "batches that were accepted").toBeLessThan(2);
    const answered = await backend.post("/v1/batches", await reading(`damaged-${how.length}-${sent}`, documents));
    isMissing = answered.status === 404;
    if (isMissing) await answered.body!.cancel();
    else expect((await allFrames(answered)).at(-1)).toMatchObject({ type: "error", kind: "memory_not_found" });
  }
  await made(documents);
  const frames = await allFrames(await backend.post("/v1/batches", await reading(`mended-${how.length}`, documents)));
  expect(frames.at(-1)).toMatchObject({ type: "done" });
});

/**
 * kill -9 of a self-hosted edge under streams and writes, and a backup of it under the same load: no key, limit, charge or adapter is
 * lost or doubled.
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { readLocalRun } from "../../infra/local-run.ts";
import type { UsageReport } from "../../shared/contracts/responses.ts";
import { callAdmin, newKeyOf } from "../support/admin.ts";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { type Stack, startStack } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";

const kills = 10;
/** Tenants that call at once; each makes one request after the other, so that a kill cuts off one of each at most. */
const callers = 12;
/** Charged requests that the limited tenant of a round may make. */
const limit = 3;
/** Before a kill: an edge charges an answer after it, within milliseconds on an idle machine (edge/tenants/TENANTS.md). */
const chargedMs = 1000;
const seed = Date.now() % 1e6;
const random = seededRandom(seed);
const BACKEND_SECRETS = "self-hosted-0123456789abcdef0123456789ab";
const patience = { timeout: 30_000 };
const commandFile = path.join(import.meta.dirname, "../../infra/backup.ts");

let folder: string;
let backend: Backend;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "self-hosted-kills-"));
  backend = await startBackend({ THREADS: "1", BACKEND_SECRETS, DATA_DIR: path.join(folder, "data") });
  return async () => {
    backend.child.kill("SIGKILL");
    await backend.exited;
    await rm(folder, { recursive: true, maxRetries: 3 });
  };
});

const startEdge = (state: string): Promise<Stack> =>
  startStack({ STATE_DIR: state, BACKEND_SECRETS }, ["--backend", backend.url], "start-edge.ts");

/** Kills the Worker's process and the one that started it, at once. */
async function killEdge(edge: Stack): Promise<void> {
  process.kill(readLocalRun(edge.state)!.worker, "SIGKILL");
  await edge.kill();
}

/** What a tenant was promised, and what was cut off. */
interface Caller {
  tenant: string;
  key: string;
  /** Charges of the answers that came to their end, and when they did. */
  charges: { tokens: number; endMs: number }[];
  /** The most tokens that the request that was cut off may be charged; null if none was. */
  cutTokens: number | null;
  /** Adapters that were made, and that were deleted. */
  made: string[];
  deleted: string[];
  /** An adapter that was being made or deleted. */
  unknown: string | null;
}

interface Used {
  requests: number;
  tokens: number;
}

async function call(edge: Stack, key: string, method: string, route: string, body?: unknown): Promise<Response> {
  return fetch(edge.edge + route, {
    method,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
}

async function usedBy(edge: Stack, { key }: Caller): Promise<Used> {
  const { total } = (await (await call(edge, key, "GET", "/v1/usage")).json()) as UsageReport;
  return { requests: total.requests, tokens: total.prompt_tokens + total.completion_tokens };
}

/** One request after the other until one is cut off: whole answers, streams, and adapters made and deleted. */
async function callUntilCut(edge: Stack, caller: Caller): Promise<void> {
  for (let i = 0; ; i++) {
    if (i % 4 === 3) {
      caller.unknown = caller.made.length > 1 ? caller.made[0] : `own-${i}`;
      const isNew = !caller.made.includes(caller.unknown);
      const documents = [{ text: `${caller.tenant} ${i} keeps ledgers at the quay. `.repeat(6) }];
      // Its documents are charged, too.
      caller.cutTokens = isNew ? 600 : null;
      const sent = isNew
        ? call(edge, caller.key, "POST", "/v1/adapters", { name: caller.unknown, documents })
        : call(edge, caller.key, "DELETE", `/v1/adapters/${caller.unknown}`);
      const response = await sent;
      const text = await response.text();
      expect(response.ok, text).toBe(true);
      if (isNew) caller.made.push(caller.unknown);
      else caller.deleted.push(caller.made.shift()!);
      if (isNew) {
        const { memory } = JSON.parse(text) as { memory: { tokens: number } };
        caller.charges.push({ tokens: memory.tokens, endMs: performance.now() });
      }
      [caller.unknown, caller.cutTokens] = [null, null];
      continue;
    }
    const max_tokens = 8 + Math.floor(random() * 24);
    const prompt = "Once upon a time";
    caller.cutTokens = max_tokens + 8;
    const options = i % 4 === 2 ? {} : { stream: true, stream_options: { include_usage: true } };
    const response = await call(edge, caller.key, "POST", "/v1/completions", { prompt, max_tokens, ...options });
    const text = await response.text();
    expect(response.status, text).toBe(200);
    if (options.stream && !text.endsWith("data: [DONE]\n\n")) return;
    const usage = /"prompt_tokens":(\d+),"completion_tokens":(\d+)/.exec(text)!;
    caller.charges.push({ tokens: Number(usage[1]) + Number(usage[2]), endMs: performance.now() });
    caller.cutTokens = null;
  }
}

/** A connection that breaks is a TypeError of fetch. */
function mustBeCut(error: unknown): void {
  if (!(error instanceof TypeError)) throw error;
}

function callAllUntilCut(edge: Stack, some: readonly Caller[]): Promise<unknown> {
  const traffic = Promise.all(some.map((caller) => callUntilCut(edge, caller).catch(mustBeCut)));
  // It is awaited after the kill.
  traffic.catch(() => undefined);
  return traffic;
}

const answersOf = (some: readonly Caller[]) => some.reduce((sum, { charges }) => sum + charges.length, 0);

async function newCallers(state: string, round: number): Promise<Caller[]> {
  return Promise.all(
    Array.from({ length: callers }, async (_, i): Promise<Caller> => {
      const tenant = `caller-${round}-${i}`;
      const { key } = await newKeyOf(state, tenant);
      return { tenant, key, charges: [], cutTokens: null, made: [], deleted: [], unknown: null };
    }),
  );
}

/** Throws unless an edge has charged a caller for each answer that ended in time before `lostMs`, and for no more than those of `later`. */
async function checkCharges(edge: Stack, caller: Caller, lostMs: number, later = caller): Promise<void> {
  const sum = (charges: Caller["charges"]): Used => ({
    requests: charges.length,
    tokens: charges.reduce((total, { tokens }) => total + tokens, 0),
  });
  const least = sum(caller.charges.filter(({ endMs }) => endMs < lostMs - chargedMs));
  const most = sum(later.charges);
  if (later.cutTokens !== null) [most.requests, most.tokens] = [most.requests + 1, most.tokens + later.cutTokens];
  const isWithin = (used: Used, name: keyof Used) => used[name] >= least[name] && used[name] <= most[name];
  // Settlements that failed are repeated.
  const counted = async () => {
    const used = await usedBy(edge, caller);
    return isWithin(used, "requests") && isWithin(used, "tokens") ? "within" : JSON.stringify({ used, least, most });
  };
  await expect.poll(counted, { ...patience, message: caller.tenant }).toBe("within");
}

/** Throws unless an edge has what a caller was promised before it was killed. */
async function check(edge: Stack, caller: Caller, killMs: number): Promise<void> {
  await checkCharges(edge, caller, killMs);
  const { data } = (await (await call(edge, caller.key, "GET", "/v1/adapters")).json()) as { data: { name: string }[] };
  const names = data.map(({ name }) => name).filter((name) => name !== caller.unknown);
  expect(names.sort()).toEqual(caller.made.filter((name) => name !== caller.unknown).sort());
}

test(`${kills} times (seed ${seed})`, { timeout: 300_000 }, async () => {
  const state = path.join(folder, "state");
  const all: [Caller, killMs: number][] = [];
  let revoked: string[] = [];
  let edge = await startEdge(state);
  onTestFinished(() => edge.stop());
  await expect.poll(async () => (await fetch(`${edge.edge}/readyz`)).status, patience).toBe(200);
  for (let round = 0; round < kills; round++) {
    const own = await newCallers(state, round);
    const limited = (await newKeyOf(state, `limited-${round}`)).key;
    await callAdmin(state, "POST", `/tenants/limited-${round}`, { limits: { requests_per_minute: limit } });
    const gone = await newKeyOf(state, "revoked");

    const traffic = callAllUntilCut(edge, own);
    for (let i = 0; i < limit; i++) {
      expect((await call(edge, limited, "POST", "/v1/completions", { prompt: "a", max_tokens: 1 })).status).toBe(200);
    }
    await callAdmin(state, "DELETE", `/keys/${gone.id}`);
    revoked = [...revoked, gone.key];
    await expect.poll(() => answersOf(own), patience).toBeGreaterThan(callers);
    await sleep(random() * 300);
    const killMs = performance.now();
    await killEdge(edge);
    await traffic;
    edge = await startEdge(state);

    expect((await call(edge, limited, "POST", "/v1/completions", { prompt: "a", max_tokens: 1 })).status).toBe(429);
    all.push(...own.map((caller): [Caller, number] => [caller, killMs]));
  }
  await Promise.all(all.map(([caller, killMs]) => check(edge, caller, killMs)));
  for (const key of revoked) expect((await call(edge, key, "GET", "/v1/models")).status).toBe(401);
});

test("a backup under load is restored to what was promised before it, and nothing of after it", async () => {
  const state = path.join(folder, "backed-up");
  const edge = await startEdge(state);
  onTestFinished(() => edge.stop());
  await expect.poll(async () => (await fetch(`${edge.edge}/readyz`)).status, patience).toBe(200);
  const round = await newCallers(state, 0);
  const traffic = callAllUntilCut(edge, round);
  await expect.poll(() => answersOf(round), patience).toBeGreaterThan(3 * callers);
  const before = structuredClone(round);
  const beforeMs = performance.now();
  const run = (name: string, file: string, to: string) =>
    promisify(execFile)(process.execPath, [commandFile, name, file], { env: { ...process.env, STATE_DIR: to } });
  const file = path.join(folder, "backup.tar.gz");
  await run("backup", file, state);
  const after = structuredClone(round);
  // It serves on.
  const { requests } = await usedBy(edge, round[0]);
  await expect.poll(async () => (await usedBy(edge, round[0])).requests, patience).toBeGreaterThan(requests);
  await killEdge(edge);
  await traffic;
  await expect(run("backup", file, state)).rejects.toThrow("is there already");

  const restored = path.join(folder, "restored");
  await run("restore", file, restored);
  await expect(run("restore", file, restored)).rejects.toThrow("move it away");
  const again = await startEdge(restored);
  onTestFinished(() => again.stop());
  for (const [i, caller] of before.entries()) {
    const changed = new Set([caller.unknown, after[i].unknown]);
    const stays = (names: string[], others: string[]) => names.filter((name) => others.includes(name));
    for (const name of [...caller.made, ...after[i].made, ...after[i].deleted]) {
      if (stays(caller.made, after[i].made).includes(name) || caller.deleted.includes(name)) continue;
      changed.add(name);
    }
    const { data } = (await (await call(again, caller.key, "GET", "/v1/adapters")).json()) as {
      data: { name: string }[];
    };
    const names = data.map(({ name }) => name).filter((name) => !changed.has(name));
    expect(names.sort()).toEqual(caller.made.filter((name) => !changed.has(name)).sort());
    await checkCharges(again, caller, beforeMs, after[i]);
    const answer = await call(again, caller.key, "POST", "/v1/completions", { prompt: "Once", max_tokens: 2 });
    expect(answer.status).toBe(200);
  }
  await again.kill();

  // A layout that this version does not know.
  await writeFile(path.join(restored, "version"), "2\n");
  await expect(startEdge(restored)).rejects.toThrow('has the layout "2", and this version knows 1');
  expect(await readFile(path.join(restored, "version"), "utf8")).toBe("2\n");
});

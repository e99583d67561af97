/** What provokes each alert: a backend that is overloaded, slow, stuck, away, failing, or on other artifacts than its mates. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { arenaShapeOf, bytesPerPosition } from "../../../gpu-backend/kv/kv-budget.ts";
import { readModelConfig } from "../../../gpu-backend/runtime/model-folder.ts";
import { pointerName } from "../../../shared/artifacts/bucket.ts";
import { allFrames, type Backend, startBackend } from "../../support/backend-process.ts";
import { sequenceRequest } from "../../support/frames.ts";

/** What a cause may use; all of it ends with the scenario. */
export interface Stage {
  start(env?: Record<string, string>): Promise<Backend>;
  /** Whom Prometheus scrapes as this scenario's backends. */
  scrape(...urls: string[]): void;
  /** Callers that ask for one completion after another until the scenario ends. */
  load(backend: Backend, callers: number, maxTokens: number): void;
  /** A folder that is removed at the end. */
  folder(): string;
}

export interface Cause {
  name: string;
  alerts: string[];
  /** Brings the cause about. Resolves with what takes it away. */
  begin(stage: Stage): Promise<() => Promise<void> | void>;
}

const model = path.join(import.meta.dirname, "../../../gpu-backend/models/chameleon-mini");
const lastEngineOf = (backend: Backend) => backend.enginePids().at(-1)!;

export const causes: Cause[] = [
  {
    name: "overload",
    alerts: ["ChameleonQueueSlow", "ChameleonFirstTokenSlow"],
    async begin({ start, scrape, load }) {
      const busy = await start({ MAX_SEQUENCES: "1" });
      scrape(busy.url);
      load(busy, 24, 400);
      return async () => {
        const idle = await start();
        scrape(idle.url);
        load(idle, 1, 100);
      };
    },
  },
  {
    name: "little-memory",
    alerts: ["ChameleonKvFull"],
    async begin({ start, scrape, load }) {
      const config = await readModelConfig(model);
      // One full context.
      const bytes = config.contextTokens * bytesPerPosition(arenaShapeOf(config));
      const backend = await start({ KV_BYTES: String(bytes) });
      scrape(backend.url);
      load(backend, 8, 400);
      return async () => {
        const idle = await start();
        scrape(idle.url);
      };
    },
  },
  {
    name: "slow-steps",
    alerts: ["ChameleonTokensSlow"],
    async begin({ start, scrape, load }) {
      const backend = await start();
      scrape(backend.url);
      load(backend, 1, 100);
      const isOver = new AbortController();
      const toggling = (async () => {
        while (!isOver.signal.aborted) {
          process.kill(lastEngineOf(backend), "SIGSTOP");
          await pause(200);
          process.kill(lastEngineOf(backend), "SIGCONT");
          await pause(10);
        }
      })();
      return async () => {
        isOver.abort();
        await toggling;
      };
    },
  },
  {
    name: "stuck",
    alerts: ["ChameleonQueueStuck"],
    async begin({ start, scrape, load }) {
      const backend = await start({ MAX_SEQUENCES: "1", STALL_MS: "3600000" });
      scrape(backend.url);
      load(backend, 4, 400);
      while (!((await backend.metric("vllm:num_requests_waiting")) > 0)) await pause(20);
      process.kill(lastEngineOf(backend), "SIGSTOP");
      return () => void process.kill(lastEngineOf(backend), "SIGCONT");
    },
  },
  {
    name: "away",
    alerts: ["ChameleonBackendDown"],
    async begin({ start, scrape }) {
      const backend = await start();
      scrape(backend.url);
      await pause(2000);
      backend.child.kill("SIGKILL");
      await backend.exited;
      return async () => void (await start({ BACKEND_PORT: new URL(backend.url).port }));
    },
  },
  {
    name: "failing-engine",
    alerts: ["ChameleonEngineRestarts", "ChameleonErrorBudgetBurnsFast", "ChameleonErrorBudgetBurns"],
    async begin({ start, scrape, load }) {
      const backend = await start();
      scrape(backend.url);
      load(backend, 4, 400);
      await pause(3000);
      for (let failure = 1; failure <= 5; failure++) {
        const engine = lastEngineOf(backend);
        process.kill(engine, "SIGKILL");
        while (lastEngineOf(backend) === engine) await pause(50);
        await pause(500);
      }
      return () => undefined;
    },
  },
  {
    name: "bad-pointer",
    alerts: ["ChameleonSetRefused"],
    async begin({ start, scrape, folder }) {
      const bucket = folder();
      mkdirSync(path.dirname(path.join(bucket, pointerName)), { recursive: true });
      const backend = await start({ ARTIFACTS_URL: pathToFileURL(bucket).href, ARTIFACTS_POLL_MS: "200" });
      scrape(backend.url);
      await pause(2000);
      writeFileSync(path.join(bucket, pointerName), "no pointer");
      return () => rmSync(path.join(bucket, pointerName));
    },
  },
  {
    name: "two-sets",
    alerts: ["ChameleonSetsDiffer"],
    async begin({ start, scrape, folder }) {
      const other = folder();
      cpSync(model, other, { recursive: true });
      const manifest = path.join(other, "artifacts/manifest.json");
      // The same set by another hash.
      writeFileSync(manifest, JSON.stringify(JSON.parse(readFileSync(manifest, "utf8"))));
      const [first, second] = [await start(), await start({ MODEL_DIR: other })];
      scrape(first.url, second.url);
      return () => scrape(first.url);
    },
  },
];

/** Runs `act` on a stage of its own, and clears it away. */
export async function onStage(scrape: (urls: string[]) => void, act: (stage: Stage) => Promise<void>): Promise<void> {
  const backends: Backend[] = [];
  const folders: string[] = [];
  const isOver = new AbortController();
  const callers: Promise<void>[] = [];
  const makeFolder = () => {
    const made = mkdtempSync(path.join(tmpdir(), "chameleon-alert-"));
    folders.push(made);
    return made;
  };
  try {
    await act({
      async start(env = {}) {
        const backend = await startBackend({ THREADS: "1", DATA_DIR: makeFolder(), ...env });
        backends.push(backend);
        return backend;
      },
      scrape: (...urls) => scrape(urls),
      load(backend, count, maxTokens) {
        for (let i = 0; i < count; i++) callers.push(ask(backend, `caller-${i}`, maxTokens, isOver.signal));
      },
      folder: makeFolder,
    });
  } finally {
    isOver.abort();
    scrape([]);
    for (const { child } of backends) child.kill("SIGKILL");
    await Promise.all([...callers, ...backends.map(({ exited }) => exited)]);
    for (const made of folders) rmSync(made, { recursive: true, force: true });
  }
}

async function ask(backend: Backend, id: string, maxTokens: number, isOver: AbortSignal): Promise<void> {
  while (!isOver.aborted) {
    const request = sequenceRequest(id);
    const sequence = { ...request, maxTokens, sampling: { ...request.sampling, ignore_eos: true } };
    try {
      await allFrames(await backend.post("/v1/batches", backend.batch(null, [sequence]), isOver));
    } catch {
      // A backend that is away or restarts is what is shown here.
      await pause(100);
    }
  }
}

/** The public API, as commands call it: of the local start unless `--url` names another. Errors are sentences. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { z } from "zod";
import { httpUrl } from "../../gpu-backend/command-line.ts";
import { localKey, stateFolder } from "../local-edge.ts";
import { readLocalRun } from "../local-run.ts";

export interface ConnectionOptions {
  url?: string;
  key?: string;
}

const errorSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable() }) });
const attempts = 5;
/** Bound on one answer: adapters take seconds. */
const answerMs = 120_000;

/** An error that the API answered with. */
export class ApiError extends Error {
  readonly code: string | null;

  constructor(message: string, code: string | null) {
    super(message);
    this.code = code;
  }
}

export function withConnection(command: Command): Command {
  return command
    .option("--url <url>", "address of the API; that of the local start unless set", httpUrl)
    .option("--key <key>", "API key; CHAMELEON_API_KEY, or that of the local start, unless set");
}

export class Connection {
  readonly #url: string;
  readonly #key: string;

  constructor({ url, key }: ConnectionOptions) {
    this.#url = url ?? readLocalRun(stateFolder())?.edge ?? "http://127.0.0.1:8787";
    this.#key = key ?? process.env.CHAMELEON_API_KEY ?? localKey;
  }

  /** Calls again what was busy. Throws an ApiError with the API's own message, or an Error where nobody answers. */
  async call<T>(schema: z.ZodType<T>, method: "GET" | "POST" | "DELETE", path: string, body?: object): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const response = await this.#send(method, path, body);
      const answer: unknown = await response.json().catch(() => null);
      if (response.ok) return schema.parse(answer);
      const isBusy = response.status === 429 || response.status === 503;
      const { data } = errorSchema.safeParse(answer);
      const { message, code } = data?.error ?? { message: `${this.#url} answered ${response.status}`, code: null };
      if (!isBusy || code === "insufficient_quota" || attempt === attempts) throw new ApiError(message, code);
      await sleep(1000 * Math.max(1, Number(response.headers.get("retry-after") ?? 1)));
    }
  }

  async #send(method: string, path: string, body: object | undefined): Promise<Response> {
    try {
      return await fetch(this.#url + path, {
        method,
        headers: { authorization: `Bearer ${this.#key}`, ...(body && { "content-type": "application/json" }) },
        ...(body && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(answerMs),
      });
    } catch (cause) {
      throw new Error(`nothing answers at ${this.#url}; \`chameleon start\` serves it, --url names another`, { cause });
    }
  }
}

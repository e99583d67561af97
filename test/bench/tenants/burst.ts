/**
 * One tenant's burst, as a process of its own, so that it takes no time from whoever measures: each message names a key and
 * and URL brings as many requests at once as it says. Argument: the body of each request.
 */
import { Agent, request } from "node:http";

export interface BurstTask {
  /** Of the completions. */
  url: string;
  key: string;
  requests: number;
}

export interface BurstResult {
  /** Status → how many. */
  statuses: Record<number, number>;
  /** `x-ratelimit-remaining-requests` of those that passed. */
  remaining: number[];
  ms: number;
}

const [body] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true });

process.on("message", ({ url, key, requests }: BurstTask) => {
  const startedMs = performance.now();
  const result: BurstResult = { statuses: {}, remaining: [], ms: 0 };
  void Promise.all(Array.from({ length: requests }, () => ask(url, key, result))).then(() => {
    process.send!({ ...result, ms: performance.now() - startedMs });
  });
});
process.once("disconnect", () => process.exit(0));

function ask(url: string, key: string, result: BurstResult): Promise<void> {
  return new Promise((resolve) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${key}` };
    const sent = request(url, { method: "POST", agent, headers });
    const ended = (status: number) => {
      result.statuses[status] = (result.statuses[status] ?? 0) + 1;
      resolve();
    };
    sent.once("error", () => ended(0));
    sent.once("response", (response) => {
      const status = response.statusCode!;
      if (status === 200) result.remaining.push(Number(response.headers["x-ratelimit-remaining-requests"]));
      response.resume().once("close", () => ended(status));
    });
    sent.end(body);
  });
}

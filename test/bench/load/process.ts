/**
 * The process of one engine under load: opens it, says so, and runs what it is sent, until its parent goes.
 * Run by measure.ts: node --expose-gc process.ts OPTIONS, as JSON
 */
import { type LoadOptions, type LoadResult, openLoadEngine } from "./engine.ts";
import type { Arrival } from "./trace.ts";

export interface ToLoad {
  arrivals: Arrival[];
  centroids: number;
}
export type FromLoad = "ready" | LoadResult;

const engine = await openLoadEngine(JSON.parse(process.argv[2]) as LoadOptions);
process.on("disconnect", () => process.exit());
process.on("message", ({ arrivals, centroids }: ToLoad) => {
  // What the last run left behind is collected outside the measured time.
  globalThis.gc?.();
  engine.run(arrivals, centroids).then(say, (error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});
say("ready");

function say(message: FromLoad): void {
  process.send!(message);
}

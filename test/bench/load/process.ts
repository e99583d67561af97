/**
 * The process of one engine under load. Runs the loads that its parent sends.
 * Run by measure.ts: node --expose-gc process.ts OPTIONS, as JSON
 */
import { answerQuestions } from "../asked-process.ts";
import { type LoadOptions, openLoadEngine } from "./engine.ts";
import type { Arrival } from "./trace.ts";

export interface ToLoad {
  arrivals: Arrival[];
  centroids: number;
}

const engine = await openLoadEngine(JSON.parse(process.argv[2]) as LoadOptions);
answerQuestions("ready", ({ arrivals, centroids }: ToLoad) => engine.run(arrivals, centroids));

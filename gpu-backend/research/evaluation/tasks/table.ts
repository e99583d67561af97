/** What `chameleon eval:tasks` measured, as a table. Pure. */
import { intervalOf, resamples } from "../../../training/bank/gain.ts";
import { Random, streams } from "../../../training/random.ts";
import type { Estimate } from "../data.ts";
import { estimateText, markdownTable } from "../render.ts";
import { averageOf } from "../statistics.ts";
import type { TaskRow } from "./evaluate.ts";

/**
 * Means over draws of examples, with 95% intervals over draws and texts. "Removed": share of the errors without examples that the
 * adapter does not make. "Over the prompt": points of accuracy that it is ahead of the examples in the prompt, on the same texts.
 * "Time": of the fit, in prefills of the examples twice. ECE: calibration error without examples, in the prompt, of the adapter.
 */
export function taskTable(rows: readonly TaskRow[]): string {
  const sets = Map.groupBy(rows, ({ set, examples }) => `${set}, ${examples}`);
  return markdownTable(
    ["set, examples", "without", "prompt (shown)", "adapter", "removed", "over the prompt", "ECE", "time", "kept"],
    [...sets].map(([name, of]) => {
      const mean = (value: (row: TaskRow) => number) => averageOf(of.map(value));
      const accuracy = (way: Way) => mean((row) => averageOf(row[way].right)).toFixed(3);
      const errors = (way: Way) => mean((row) => row[way].calibrationError).toFixed(2);
      const rate = (way: Way, draw: Draw) =>
        averageOf(draw.flatMap(({ row, texts }) => texts.map((n) => row[way].right[n])));
      const removed = (draw: Draw) => 1 - (1 - rate("own", draw)) / (1 - rate("zeroShot", draw));
      const ahead = (draw: Draw) => 100 * (rate("own", draw) - rate("fewShot", draw));
      return [
        ...[name, accuracy("zeroShot"), `${accuracy("fewShot")} (${mean(({ fewShot }) => fewShot.shown).toFixed(0)})`],
        ...[
          accuracy("own"),
          estimateText(overDraws(of, "zeroShot", removed)),
          estimateText(overDraws(of, "fewShot", ahead)),
        ],
        `${errors("zeroShot")} / ${errors("fewShot")} / ${errors("own")}`,
        mean(({ milliseconds }) => milliseconds.fit / milliseconds.prefillTwice).toFixed(1),
        mean(({ own }) => Number(own.kept)).toFixed(1),
      ];
    }),
  );
}

type Way = "zeroShot" | "fewShot" | "own";
/** Rows of one set and size, and places of the texts that count. */
type Draw = { row: TaskRow; texts: readonly number[] }[];

/** The interval resamples the draws of examples, and the texts, which are the same ones in all of them. */
export function overDraws(rows: readonly TaskRow[], way: Way, value: (draw: Draw) => number): Estimate {
  const random = new Random(1, streams.bootstrap);
  const drawn = <T>(all: readonly T[]) => all.map(() => all[random.integer(all.length)]);
  const draw = (of: readonly TaskRow[], texts: readonly number[]) => value(of.map((row) => ({ row, texts })));
  const texts = [...rows[0][way].right.keys()];
  const draws = Array.from({ length: resamples }, () => draw(drawn(rows), drawn(texts)));
  return { mean: draw(rows, texts), ci95: intervalOf(draws) };
}

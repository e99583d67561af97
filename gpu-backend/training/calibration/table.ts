/** Calibration as Markdown: what was chosen for each prompt length, and what it gains on each kind of text. */
import { markdownTable } from "../report/tables.ts";
import type { Calibrated } from "./calibrate.ts";

/** Every group has its row, the losing ones too: the mixture's gain with its interval, and the nearest adapter's. */
export function calibrationTable({ calibration, rows }: Calibrated): string {
  const lengths = calibration.byLength.map(({ promptTokens }) => promptTokens);
  const cell = (group: string, length: number) => {
    const row = rows.find((one) => one.group === group && one.promptTokens === length);
    if (!row) return "–";
    const { nats, ci95 } = row.mixture;
    return `${signed(nats)} [${ci95.map(signed).join(", ")}] (${signed(row.nearest.nats)})`;
  };
  const groups = [...new Set(rows.map(({ group }) => group))];
  return [
    `floor ${calibration.floor}: no token costs more than ${(-Math.log(calibration.floor)).toFixed(2)} nats over the base`,
    markdownTable(
      [
        ...["prompt tokens", "prior of the base", "at a margin of"],
        ...["prior of no pointer", "at a surprisal of", "temper", "floor"],
      ],
      calibration.byLength.map(({ promptTokens, base, noPointer, temper, floor, typical }) =>
        [promptTokens, base, typical?.margin ?? "–", noPointer, typical?.surprisal ?? "–", temper, floor].map(String),
      ),
    ),
    markdownTable(
      ["text", ...lengths.map((length) => `after ${length} tokens: mixture (nearest)`)],
      groups.map((group) => [group, ...lengths.map((length) => cell(group, length))]),
    ),
  ].join("\n\n");
}

function signed(nats: number): string {
  return `${nats < 0 ? "−" : ""}${Math.abs(nats).toFixed(3)}`;
}

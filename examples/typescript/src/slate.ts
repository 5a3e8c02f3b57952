/**
 * A varied list for somebody who just looked at a few items: no value of a column has more than two of its items.
 *
 *   npm run slate -- localhost:9001 genres 318 296
 */
import { credentials } from "@grpc/grpc-js";

import { call, report } from "./call.js";
import { InterestServiceClient, RecommendRequest, type RecommendResponse } from "./generated/ebbtide/v1/interest.js";

async function main(address: string, column: string, itemIds: string[]): Promise<number> {
  const client = new InterestServiceClient(address, credentials.createInsecure());
  const now = new Date();
  const request = RecommendRequest.fromPartial({
    now,
    current: itemIds.map((value) => ({ subject: { $case: "itemId", value }, time: now })),
    topN: 5,
    slate: { diversity: 0.3, atMost: [{ column, count: 2 }] },
  });
  try {
    const answer = await call<RecommendRequest, RecommendResponse>(client.recommend.bind(client), request);
    const items = answer.items.map(({ itemId, scoreRank, movedBy }) => ({ itemId, scoreRank, movedBy }));
    console.log(JSON.stringify({ items, relaxedLimits: answer.relaxedLimits }));
    return 0;
  } catch (error) {
    report(error);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", column = "genres", ...itemIds] = process.argv.slice(2);
process.exitCode = await main(address, column, itemIds);

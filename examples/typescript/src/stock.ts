/**
 * Stock: says that items are out of stock, or in stock again, and lists what is out of stock now.
 *
 *   npm run stock -- localhost:9001 out 318 296
 *   npm run stock -- localhost:9001 in 318
 */
import { credentials } from "@grpc/grpc-js";

import { call, report } from "./call.js";
import {
  InterestServiceClient,
  ListOutOfStockRequest,
  SetStockRequest,
  type ListOutOfStockResponse,
  type SetStockResponse,
} from "./generated/ebbtide/v1/interest.js";

async function main(address: string, where: string, itemIds: string[]): Promise<number> {
  const client = new InterestServiceClient(address, credentials.createInsecure());
  try {
    const changed = await call<SetStockRequest, SetStockResponse>(
      client.setStock.bind(client),
      SetStockRequest.fromPartial(where === "in" ? { inStockItemIds: itemIds } : { outOfStockItemIds: itemIds }),
    );
    const outOfStock: string[] = [];
    let part = 0;
    do {
      const listed = await call<ListOutOfStockRequest, ListOutOfStockResponse>(
        client.listOutOfStock.bind(client),
        ListOutOfStockRequest.fromPartial({ part }),
      );
      outOfStock.push(...listed.itemIds);
      part = listed.nextPart;
    } while (part !== 0);
    console.log(JSON.stringify({ changed: changed.changedItems, outOfStock }));
    return 0;
  } catch (error) {
    report(error);
    return 1;
  } finally {
    client.close();
  }
}

const [address = "localhost:9001", where = "out", ...itemIds] = process.argv.slice(2);
process.exitCode = await main(address, where, itemIds);

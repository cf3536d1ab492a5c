"""MLServer with its own scikit-learn runtime, one process (parallel workers off).

python mlserver_array.py PORT MODEL.pkl
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from mlserver import MLServer, ModelSettings, Settings
from mlserver_sklearn import SKLearnModel


async def main(folder: Path) -> None:
    shutil.copy(sys.argv[2], folder / "model.pickle")
    settings = Settings(
        host="127.0.0.1", http_port=int(sys.argv[1]), grpc_port=int(sys.argv[1]) + 1,
        parallel_workers=0, metrics_endpoint=None, debug=False,
    )  # fmt: skip
    model = ModelSettings(
        name="bench", implementation=SKLearnModel, parameters={"uri": str(folder / "model.pickle")}
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))

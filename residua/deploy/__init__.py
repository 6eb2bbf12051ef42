"""Trained networks in use: prediction, explanation, export and the web service.

engine            runs a network in PyTorch, ONNX Runtime or OpenVINO
predict           classifies image files in batches
explain           Grad-CAM heat maps
similar           finds similar training images
export            writes a network to one file and checks it
export_files      writers and loaders of the export formats
export_metadata   metadata in exported files
export_check      compares an exported file with PyTorch
int8              quantisation and its cost in accuracy
inference_module  network, preprocessing and softmax in one module
translate         inference module -> torch.export, ONNX, OpenVINO
runners           ONNX Runtime and OpenVINO as functions of tensors
model_images      images of a data set in the shape a model takes
serve             runs the service on a socket
service           HTTP endpoints
batcher           classifies concurrent requests in one batch
upload            reads an image from a request
metrics           counters of the service for Prometheus
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.deploy.engine import InferenceEngine as InferenceEngine
    from residua.deploy.engine import build_engine as build_engine
    from residua.deploy.explain import GradCamExplainer as GradCamExplainer
    from residua.deploy.export import export_model as export_model
    from residua.deploy.predict import Prediction as Prediction
    from residua.deploy.predict import find_image_files as find_image_files
    from residua.deploy.predict import make_prediction_json as make_prediction_json
    from residua.deploy.predict import predict_files as predict_files
    from residua.deploy.serve import open_listener as open_listener
    from residua.deploy.serve import serve_until_stopped as serve_until_stopped
    from residua.deploy.service import PredictionService as PredictionService
    from residua.deploy.service import ServerLimits as ServerLimits
    from residua.deploy.similar import SimilarImageIndex as SimilarImageIndex
    from residua.deploy.similar import build_similar_image_index as build_similar_image_index

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "engine": "InferenceEngine build_engine",
        "explain": "GradCamExplainer",
        "export": "export_model",
        "predict": "Prediction find_image_files make_prediction_json predict_files",
        "serve": "open_listener serve_until_stopped",
        "service": "PredictionService ServerLimits",
        "similar": "SimilarImageIndex build_similar_image_index",
    },
)

"""Use trained networks: predict, explain, export, and serve over HTTP.

engine            runs a network in PyTorch, ONNX Runtime or OpenVINO
predict           classifies image files in batches
image_files       finds the image files in a folder
sort_images       sorts classified images into one folder per class
example_images    loads the images that the service's page offers to click
explain           draws Grad-CAM heat maps
explained_class   finds the class to explain by its name
similar           finds similar training images
export            writes a network to one file and checks it
export_files      writes and loads the files of each export format
export_metadata   makes the metadata in exported files
export_check      compares an exported file with PyTorch
push              uploads a model folder to the Hugging Face hub
int8              quantises a network to int8 and measures the loss of accuracy
inference_module  a network with normalisation and softmax in one module
translate         converts that module to torch.export, ONNX or OpenVINO
runners           runs exported models in ONNX Runtime and OpenVINO
model_images      reads images of a data set at the input size of a model
serve             runs the service on a socket
service           HTTP endpoints
limits            limits of the service
connections       closes slow and surplus connections
access            refuses hosts and origins without access
query             reads a request's options
upload            reads the images of a request
body_budget       bounds the memory of request bodies
decoding          decodes uploaded images in bounded memory
batcher           groups concurrent requests into batches
explanation       adds heat maps and similar images to answers
metrics           counts requests, refusals, latencies and batch sizes for Prometheus
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.deploy.access import AccessRules as AccessRules
    from residua.deploy.access import parse_allowed_host as parse_allowed_host
    from residua.deploy.access import parse_allowed_origin as parse_allowed_origin
    from residua.deploy.engine import InferenceEngine as InferenceEngine
    from residua.deploy.engine import build_engine as build_engine
    from residua.deploy.example_images import MAX_EXAMPLES as MAX_EXAMPLES
    from residua.deploy.example_images import ExampleImage as ExampleImage
    from residua.deploy.example_images import load_example_images as load_example_images
    from residua.deploy.explain import GradCamExplainer as GradCamExplainer
    from residua.deploy.explained_class import find_class_index as find_class_index
    from residua.deploy.export import export_model as export_model
    from residua.deploy.image_files import PassedOverFiles as PassedOverFiles
    from residua.deploy.image_files import find_image_files as find_image_files
    from residua.deploy.limits import ServerLimits as ServerLimits
    from residua.deploy.predict import Prediction as Prediction
    from residua.deploy.predict import make_prediction_json as make_prediction_json
    from residua.deploy.predict import predict_files as predict_files
    from residua.deploy.push import prepare_upload as prepare_upload
    from residua.deploy.push import push_to_hub as push_to_hub
    from residua.deploy.serve import open_listener as open_listener
    from residua.deploy.serve import serve_until_stopped as serve_until_stopped
    from residua.deploy.service import PredictionService as PredictionService
    from residua.deploy.similar import SimilarImageIndex as SimilarImageIndex
    from residua.deploy.similar import build_similar_image_index as build_similar_image_index
    from residua.deploy.sort_images import DEFAULT_UNSURE_BELOW as DEFAULT_UNSURE_BELOW
    from residua.deploy.sort_images import check_sort_folder as check_sort_folder
    from residua.deploy.sort_images import open_image_sorter as open_image_sorter
    from residua.deploy.sort_images import refuse_searched_folder as refuse_searched_folder

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "access": "AccessRules parse_allowed_host parse_allowed_origin",
        "engine": "InferenceEngine build_engine",
        "example_images": "MAX_EXAMPLES ExampleImage load_example_images",
        "explain": "GradCamExplainer",
        "explained_class": "find_class_index",
        "export": "export_model",
        "image_files": "PassedOverFiles find_image_files",
        "limits": "ServerLimits",
        "predict": "Prediction make_prediction_json predict_files",
        "push": "prepare_upload push_to_hub",
        "serve": "open_listener serve_until_stopped",
        "service": "PredictionService",
        "similar": "SimilarImageIndex build_similar_image_index",
        "sort_images": (
            "DEFAULT_UNSURE_BELOW check_sort_folder open_image_sorter refuse_searched_folder"
        ),
    },
)
